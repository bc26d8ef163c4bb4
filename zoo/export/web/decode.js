// Decodes pictures with the browser's decoders, and prepares them for the network.

import { networkInput, reduce, turnedTarget } from "./pixels.js";
import { PictureError, readFile } from "./picture-file.js";

// A strip of this many pixels is read from the canvas at a time, so that large pictures need little memory.
const STRIP_PIXELS = 1 << 20;
// The largest picture that zoo_runtime accepts by default has about as many pixels.
const MAX_PIXELS = 178_956_970;

// Return the bytes that the network receives for a file (a Blob).
export async function inputOfFile(blob, image) {
  const { kind, orientation, parts } = readFile(new Uint8Array(await blob.arrayBuffer()), image.levels ?? 16);
  const bitmap = await decode(new Blob(parts, { type: blob.type }));
  try {
    // libjpeg halves a large JPEG while decoding it, by averaging.
    const factor = kind === "jpeg" ? draftFactor(bitmap.width, bitmap.height, orientation, image) : 1;
    return networkInput(pictureOf(bitmap, factor), orientation, image);
  } finally {
    bitmap.close();
  }
}

// Return the bytes that the network receives for a frame of the camera (an ImageBitmap, which is closed).
export function inputOfFrame(bitmap, image) {
  try {
    return networkInput(pictureOf(bitmap, 1), 1, image);
  } finally {
    bitmap.close();
  }
}

async function decode(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new PictureError(
      "This browser cannot read the file: it is damaged, or of a format that the browser does not know. " +
        "JPEG, PNG, WebP, GIF and BMP work everywhere."
    );
  }
  if (bitmap.width * bitmap.height > MAX_PIXELS) {
    bitmap.close();
    throw new PictureError(`The picture is too large: more than ${Math.floor(MAX_PIXELS / 1e6)} million pixels.`);
  }
  return bitmap;
}

// Return by which factor zoo_runtime lets libjpeg reduce a JPEG: the largest after which nothing must be enlarged.
export function draftFactor(width, height, orientation, image) {
  let [wantedWidth, wantedHeight] = turnedTarget(image, orientation);
  if (image.resize !== "squash") {
    const scales = [wantedWidth / width, wantedHeight / height];
    const scale = image.resize === "crop" ? Math.max(...scales) / image.fraction : Math.min(...scales);
    [wantedWidth, wantedHeight] = [Math.ceil(width * scale), Math.ceil(height * scale)];
  }
  const room = Math.min(Math.floor(width / wantedWidth), Math.floor(height / wantedHeight));
  return [8, 4, 2].find((factor) => room >= factor) ?? 1;
}

// Return the RGB pixels of a bitmap, over white where it is transparent, reduced by a factor.
function pictureOf(bitmap, factor) {
  const { width, height } = bitmap;
  const out = { width: Math.ceil(width / factor), height: Math.ceil(height / factor) };
  out.data = new Uint8ClampedArray(out.width * out.height * 3);
  const rows = Math.max(factor, Math.floor(STRIP_PIXELS / width / factor) * factor);
  const canvas = new OffscreenCanvas(width, Math.min(rows, height));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let visible = false;
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.clearRect(0, 0, width, count);
    context.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
    const { data } = context.getImageData(0, 0, width, count);
    visible = overWhite(data) || visible;
    out.data.set(reduce(data, width, count, factor), (top / factor) * out.width * 3);
  }
  if (!visible) throw new PictureError("Every pixel is transparent, so that nothing of the picture can be seen.");
  return out;
}

// Lay RGBA pixels over white, in place. Return whether any of them can be seen.
function overWhite(data) {
  let visible = false;
  for (let at = 0; at < data.length; at += 4) {
    const alpha = data[at + 3];
    visible ||= alpha > 0;
    if (alpha === 255) continue;
    for (let channel = at; channel < at + 3; channel++) {
      data[channel] = Math.round((data[channel] * alpha + 255 * (255 - alpha)) / 255);
    }
  }
  return visible;
}
