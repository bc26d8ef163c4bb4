// Turns decoded pixels into those that the network receives: one size, upright, RGB or gray.
//
// The steps, their order and their rounding are those of zoo_runtime and of Pillow, so that equal decoded pixels give
// equal bytes. Pillow resizes rows and columns one after the other, with weights of 22 fractional bits. A canvas would
// not do: browsers choose their own filters, and most of them do not average over all pixels of a large picture.
//
// A picture is an object {data, width, height} with three bytes per pixel (RGB), row by row.

const BITS = 22;

function sinc(x) {
  if (x === 0) return 1;
  return Math.sin(x * Math.PI) / (x * Math.PI);
}

const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    weight(x) {
      x = Math.abs(x);
      if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
    },
  },
  lanczos: { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

// Return, for each new position, the first old position that counts, and the weights from there on.
// Pillow stores the bounds `from` and `to` as 32-bit floats, and the weights as integers.
function weightsOf(size, from, to, newSize, { support, weight }) {
  from = Math.fround(from);
  const scale = Math.fround(Math.fround(to) - from) / newSize;
  const stretch = Math.max(scale, 1);
  const reach = support * stretch;
  const list = [];
  for (let i = 0; i < newSize; i++) {
    const center = from + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5));
    const last = Math.min(size, Math.trunc(center + reach + 0.5));
    const values = [];
    for (let x = first; x < last; x++) values.push(weight((x - center + 0.5) * (1 / stretch)));
    const sum = values.reduce((total, value) => total + value, 0);
    const whole = values.map((value) => {
      const exact = (sum === 0 ? value : value / sum) * (1 << BITS);
      return Math.trunc(exact < 0 ? exact - 0.5 : exact + 0.5);
    });
    list.push({ first, weights: Int32Array.from(whole) });
  }
  return list;
}

function clip(sum) {
  const level = sum >> BITS;
  return level < 0 ? 0 : level > 255 ? 255 : level;
}

// Resize the rows (each row gets `newWidth` pixels), using the columns from `left` to `right`.
function resizeRows({ data, width, height }, newWidth, left, right, filter) {
  if (newWidth === width && left === 0 && right === width) return { data, width, height };
  const list = weightsOf(width, left, right, newWidth, filter);
  const out = new Uint8ClampedArray(newWidth * height * 3);
  for (let y = 0, to = 0; y < height; y++) {
    for (const { first, weights } of list) {
      let red = 1 << (BITS - 1), green = red, blue = red;
      for (let i = 0, at = (y * width + first) * 3; i < weights.length; i++, at += 3) {
        const weight = weights[i];
        red += data[at] * weight;
        green += data[at + 1] * weight;
        blue += data[at + 2] * weight;
      }
      out[to++] = clip(red);
      out[to++] = clip(green);
      out[to++] = clip(blue);
    }
  }
  return { data: out, width: newWidth, height };
}

// Resize the columns (each column gets `newHeight` pixels), using the rows from `top` to `bottom`.
function resizeColumns({ data, width, height }, newHeight, top, bottom, filter) {
  if (newHeight === height && top === 0 && bottom === height) return { data, width, height };
  const list = weightsOf(height, top, bottom, newHeight, filter);
  const out = new Uint8ClampedArray(width * newHeight * 3);
  const stride = width * 3;
  const sums = new Int32Array(stride);
  list.forEach(({ first, weights }, row) => {
    sums.fill(1 << (BITS - 1));
    weights.forEach((weight, i) => {
      const start = (first + i) * stride;
      for (let x = 0; x < stride; x++) sums[x] += data[start + x] * weight;
    });
    for (let x = 0, to = row * stride; x < stride; x++) out[to + x] = clip(sums[x]);
  });
  return { data: out, width, height: newHeight };
}

// Resize the part [left, top, right, bottom] of a picture, rows and columns in the order that Pillow 13 chooses.
export function resizePart(picture, newWidth, newHeight, filterName, [left, top, right, bottom]) {
  const filter = FILTERS[filterName];
  const { width, height } = picture;
  const columnsFirst = newHeight < height && height - newHeight > 2 * (width - newWidth);
  if (columnsFirst) {
    return resizeRows(resizeColumns(picture, newHeight, top, bottom, filter), newWidth, left, right, filter);
  }
  return resizeColumns(resizeRows(picture, newWidth, left, right, filter), newHeight, top, bottom, filter);
}

// Return the RGB pixels of RGBA pixels, each the mean of `factor` x `factor` of them, rounded.
//
// This is what libjpeg does with the brightness when it decodes a JPEG at 1/2, 1/4 or 1/8 of its size. It takes the
// mean before it rounds and turns YCbCr into RGB, and it has other pixels for the color, so that levels differ a little.
export function reduce(data, width, height, factor) {
  const newWidth = Math.ceil(width / factor);
  const newHeight = Math.ceil(height / factor);
  const out = new Uint8ClampedArray(newWidth * newHeight * 3);
  for (let y = 0, to = 0; y < newHeight; y++) {
    const bottom = Math.min(height, (y + 1) * factor);
    for (let x = 0; x < newWidth; x++, to += 3) {
      const right = Math.min(width, (x + 1) * factor);
      let red = 0, green = 0, blue = 0, count = 0;
      for (let row = y * factor; row < bottom; row++) {
        for (let column = x * factor; column < right; column++, count++) {
          const at = (row * width + column) * 4;
          red += data[at];
          green += data[at + 1];
          blue += data[at + 2];
        }
      }
      out[to] = Math.round(red / count);
      out[to + 1] = Math.round(green / count);
      out[to + 2] = Math.round(blue / count);
    }
  }
  return out;
}

// Round as Python does: a half goes to the even neighbor.
function roundHalfEven(x) {
  const below = Math.floor(x);
  if (x - below !== 0.5) return Math.round(x);
  return below % 2 === 0 ? below : below + 1;
}

function resize(picture, image, newWidth, newHeight) {
  const { width, height } = picture;
  const scales = [newWidth / width, newHeight / height];
  if (image.resize === "pad") {
    const scale = Math.min(...scales);
    newWidth = Math.max(1, roundHalfEven(width * scale));
    newHeight = Math.max(1, roundHalfEven(height * scale));
  }
  if (image.resize !== "crop") return resizePart(picture, newWidth, newHeight, image.filter, [0, 0, width, height]);
  const kept = image.fraction / Math.max(...scales);
  const [x, y] = [(newWidth * kept) / 2, (newHeight * kept) / 2];
  const box = [
    Math.max(0, width / 2 - x),
    Math.max(0, height / 2 - y),
    Math.min(width, width / 2 + x),
    Math.min(height, height / 2 + y),
  ];
  return resizePart(picture, newWidth, newHeight, image.filter, box);
}

// Where a pixel of the turned picture comes from, for each EXIF orientation: (x, y, last column, last row) of the stored
// picture.
const TURNS = {
  2: (x, y, right) => [right - x, y],
  3: (x, y, right, bottom) => [right - x, bottom - y],
  4: (x, y, right, bottom) => [x, bottom - y],
  5: (x, y) => [y, x],
  6: (x, y, right, bottom) => [y, bottom - x],
  7: (x, y, right, bottom) => [right - y, bottom - x],
  8: (x, y, right) => [right - y, x],
};

function turn(picture, orientation) {
  const source = TURNS[orientation];
  if (!source) return picture;
  const swapped = orientation >= 5;
  const width = swapped ? picture.height : picture.width;
  const height = swapped ? picture.width : picture.height;
  const data = new Uint8ClampedArray(width * height * 3);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 3) {
      const [fromX, fromY] = source(x, y, picture.width - 1, picture.height - 1);
      const from = (fromY * picture.width + fromX) * 3;
      data[to] = picture.data[from];
      data[to + 1] = picture.data[from + 1];
      data[to + 2] = picture.data[from + 2];
    }
  }
  return { data, width, height };
}

// Center a picture on black.
function pad(picture, width, height) {
  if (picture.width === width && picture.height === height) return picture;
  const data = new Uint8ClampedArray(width * height * 3);
  const left = Math.floor((width - picture.width) / 2);
  const top = Math.floor((height - picture.height) / 2);
  for (let y = 0; y < picture.height; y++) {
    const row = picture.data.subarray(y * picture.width * 3, (y + 1) * picture.width * 3);
    data.set(row, ((top + y) * width + left) * 3);
  }
  return { data, width, height };
}

// Return the gray levels of RGB pixels: ITU-R 601-2 luma, as Pillow computes it.
function grayOf(data) {
  const gray = new Uint8Array(data.length / 3);
  for (let i = 0, at = 0; i < gray.length; i++, at += 3) {
    gray[i] = (data[at] * 19595 + data[at + 1] * 38470 + data[at + 2] * 7471 + 0x8000) >> 16;
  }
  return gray;
}

// Return the (width, height) of the network's input as they are before a picture is turned.
export function turnedTarget(image, orientation) {
  const [height, width] = image.size;
  return orientation >= 5 ? [height, width] : [width, height];
}

// Return the bytes that the network receives, height x width x channels.
//
// picture: the decoded picture, not yet turned. orientation: its EXIF orientation, 1 to 8. image: the description of
// the input in model.json.
export function networkInput(picture, orientation, image) {
  const [height, width] = image.size;
  const small = resize(picture, image, ...turnedTarget(image, orientation));
  const { data } = pad(turn(small, orientation), width, height);
  return image.channels === 1 ? grayOf(data) : new Uint8Array(data.buffer);
}
