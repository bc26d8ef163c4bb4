// Reads what a picture's file says about itself, and takes out what would make browsers change its pixels.
//
// zoo_runtime ignores color profiles, and turns a picture by its EXIF orientation after resizing. Browsers apply both
// while they decode, each in its own way. So profiles, gamma and EXIF are left out of the bytes that a browser gets.

// A picture that cannot be read. Its message is shown to the user.
export class PictureError extends Error {}

// Return {kind, orientation, parts}: "jpeg", "png", "webp" or "other", the EXIF orientation (1 to 8), and the bytes for
// the browser's decoder as parts of a Blob.
//
// levels: the bits of 16-bit gray levels that the network's pictures use, 8 to 16.
export function readFile(bytes, levels) {
  if (bytes.length === 0) throw new PictureError("The file is empty.");
  if (startsWith(bytes, 0, "\xff\xd8\xff")) return readJpeg(bytes);
  if (startsWith(bytes, 0, "\x89PNG\r\n\x1a\n")) return readPng(bytes, levels);
  if (startsWith(bytes, 0, "RIFF") && startsWith(bytes, 8, "WEBP")) return readWebp(bytes);
  return { kind: "other", orientation: 1, parts: [bytes] };
}

function startsWith(bytes, at, text) {
  for (let i = 0; i < text.length; i++) if (bytes[at + i] !== text.charCodeAt(i)) return false;
  return true;
}

function textOf(bytes) {
  return new TextDecoder("latin1").decode(bytes);
}

function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function truncated(name) {
  return new PictureError(`This ${name} file is truncated: its end is missing. Copy it again from where it came from.`);
}

// Collects the orientation from the metadata of a file. EXIF counts; XMP only where EXIF has none.
class Orientation {
  #exif = 0;
  #xmp = 0;

  addExif(bytes) {
    this.#exif ||= exifOrientation(bytes);
  }

  addXmp(bytes) {
    this.#xmp ||= Number(/tiff:Orientation(?:="|>)([0-9])/.exec(textOf(bytes))?.[1] ?? 0);
  }

  get value() {
    const value = this.#exif || this.#xmp;
    return value >= 1 && value <= 8 ? value : 1;
  }
}

// Return the orientation in EXIF data, which has the form of a TIFF file, or 0 if there is none.
function exifOrientation(bytes) {
  const little = startsWith(bytes, 0, "II");
  if (!little && !startsWith(bytes, 0, "MM")) return 0;
  const view = viewOf(bytes);
  try {
    const start = view.getUint32(4, little);
    const count = view.getUint16(start, little);
    for (let i = 0; i < count; i++) {
      const entry = start + 2 + 12 * i;
      if (view.getUint16(entry, little) !== 0x0112) continue;
      const type = view.getUint16(entry + 2, little);
      return type === 3 ? view.getUint16(entry + 8, little) : type === 4 ? view.getUint32(entry + 8, little) : 0;
    }
  } catch (error) {
    // Broken EXIF is common and says nothing about the pixels.
    if (!(error instanceof RangeError)) throw error;
  }
  return 0;
}

// Keep only the segments that a decoder needs. Of the application segments, these are Adobe's (it names the color space)
// and JFIF's.
function readJpeg(bytes) {
  const view = viewOf(bytes);
  const orientation = new Orientation();
  const parts = [bytes.subarray(0, 2)];
  let at = 2;
  while (at + 4 <= bytes.length) {
    const marker = bytes[at + 1];
    if (bytes[at] !== 0xff || marker === 0xff || marker === 0) {
      at += 1; // a fill byte, or bytes between segments, which decoders skip
      continue;
    }
    if (marker === 0xda) {
      if (!hasEnd(bytes, at)) throw truncated("JPEG");
      return { kind: "jpeg", orientation: orientation.value, parts: [...parts, bytes.subarray(at)] };
    }
    const end = at + 2 + view.getUint16(at + 2);
    const body = bytes.subarray(at + 4, end);
    if (marker === 0xe1 && startsWith(body, 0, "Exif\0")) orientation.addExif(body.subarray(6));
    if (marker === 0xe1 && startsWith(body, 0, "http://ns.adobe.com/xap/")) orientation.addXmp(body);
    const dropped = (marker >= 0xe1 && marker <= 0xef && marker !== 0xee) || marker === 0xfe;
    if (!dropped) parts.push(bytes.subarray(at, end));
    at = end;
  }
  throw truncated("JPEG");
}

// Whether the marker "end of image" follows. Browsers would show a truncated picture with gray areas.
function hasEnd(bytes, from) {
  for (let at = bytes.length - 2; at > from; at--) if (bytes[at] === 0xff && bytes[at + 1] === 0xd9) return true;
  return false;
}

const PNG_CHUNKS = new Set(["IHDR", "PLTE", "tRNS", "IDAT", "IEND"]);

function readPng(bytes, levels) {
  const view = viewOf(bytes);
  const orientation = new Orientation();
  const parts = [bytes.subarray(0, 8)];
  let at = 8;
  while (at + 12 <= bytes.length) {
    const length = view.getUint32(at);
    const type = textOf(bytes.subarray(at + 4, at + 8));
    const end = at + 12 + length;
    if (end > bytes.length) break;
    const body = bytes.subarray(at + 8, end - 4);
    if (type === "IHDR" && body[8] === 16 && levels < 16) {
      throw new PictureError(
        `This picture has 16 bits per level, of which the pictures of this network use ${levels}. Browsers keep only 8 ` +
          "of them. Use zoo-runtime for such pictures, or save the picture with 8 bits."
      );
    }
    if (type === "eXIf") orientation.addExif(body);
    if (type === "iTXt" && startsWith(body, 0, "XML:com.adobe.xmp\0")) orientation.addXmp(body);
    if (PNG_CHUNKS.has(type)) {
      if (crc(bytes, at + 4, end - 4) !== view.getUint32(end - 4)) {
        throw new PictureError("This PNG file is damaged: a checksum is wrong. Copy it again from where it came from.");
      }
      parts.push(bytes.subarray(at, end));
    }
    if (type === "IEND") return { kind: "png", orientation: orientation.value, parts };
    at = end;
  }
  throw truncated("PNG");
}

let crcTable;

function crc(bytes, from, to) {
  crcTable ??= Int32Array.from({ length: 256 }, (_, value) => {
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
    return value;
  });
  let sum = -1;
  for (let at = from; at < to; at++) sum = crcTable[(sum ^ bytes[at]) & 255] ^ (sum >>> 8);
  return ~sum >>> 0;
}

// The flags of a WebP file that has a color profile, EXIF or XMP.
const WEBP_EXTRAS = 0x20 | 0x08 | 0x04;

function readWebp(bytes) {
  const view = viewOf(bytes);
  if (view.getUint32(4, true) + 8 > bytes.length) throw truncated("WebP");
  const orientation = new Orientation();
  const parts = [];
  const last = view.getUint32(4, true) + 8;
  for (let at = 12; at + 8 <= last; ) {
    const type = textOf(bytes.subarray(at, at + 4));
    const length = view.getUint32(at + 4, true);
    const end = at + 8 + length + (length % 2);
    let part = bytes.subarray(at, Math.min(end, last));
    if (type === "VP8X") {
      part = part.slice();
      part[8] &= ~WEBP_EXTRAS;
    }
    if (type === "EXIF") {
      const body = part.subarray(8);
      orientation.addExif(startsWith(body, 0, "Exif\0\0") ? body.subarray(6) : body);
    } else if (type === "XMP ") orientation.addXmp(part);
    else if (type !== "ICCP") parts.push(part);
    at = end;
  }
  const header = bytes.slice(0, 12);
  const size = parts.reduce((total, part) => total + part.length, 4);
  viewOf(header).setUint32(4, size, true);
  return { kind: "webp", orientation: orientation.value, parts: [header, ...parts] };
}
