// What squeezenext/images/decoding.py does, to the last bit: the centre window of the source image,
// resized as Pillow's Image.resize(BILINEAR, box=...) does it (libImaging/Resample.c): antialiased,
// across first, then down, 22-bit fixed-point coefficients, rounded to 8 bits after each.

const PRECISION = 2 ** 22;

/** Returns the crop, {top, left, height, width} in source pixels. */
export function centreWindow(height, width, images) {
  const short = Math.min(height, width);
  const squash = images.resize_mode === "squash";
  const tall = squash ? images.resize : Math.floor((images.resize * height) / short);
  const wide = squash ? images.resize : Math.floor((images.resize * width) / short);
  const half = (margin) => Math.floor((margin + (Math.floor(margin / 2) % 2)) / 2);
  return {
    top: (half(tall - images.size) * height) / tall,
    left: (half(wide - images.size) * width) / wide,
    height: (images.size * height) / tall,
    width: (images.size * width) / wide,
  };
}

function coefficients(length, from, to, size) {
  const scale = (to - from) / size;
  const spread = Math.max(scale, 1);
  const rows = [];
  for (let place = 0; place < size; place++) {
    const centre = from + (place + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - spread + 0.5), 0);
    const end = Math.min(Math.trunc(centre + spread + 0.5), length);
    const weights = [];
    for (let x = first; x < end; x++) {
      weights.push(Math.max(1 - Math.abs((x - centre + 0.5) / spread), 0));
    }
    const sum = weights.reduce((a, b) => a + b, 0);
    // C's (int)(0.5 + w * 2^22); no weight of this filter is negative.
    rows.push({ first, weights: weights.map((w) => Math.trunc(0.5 + (w / sum) * PRECISION)) });
  }
  return rows;
}

/** Returns the [size, size, 3] RGB bytes of the centre of an ImageData. */
export function centrePixels(image, images) {
  const { width, height, data } = image;
  const size = images.size;
  const window = centreWindow(height, width, images);
  const right = Math.min(window.left + window.width, width);
  const bottom = Math.min(window.top + window.height, height);
  const across = coefficients(width, Math.max(window.left, 0), right, size);
  const down = coefficients(height, Math.max(window.top, 0), bottom, size);
  const low = down[0].first;
  const high = down[size - 1].first + down[size - 1].weights.length;
  const middle = new Uint8Array((high - low) * size * 3);
  for (let y = low; y < high; y++) {
    for (let x = 0; x < size; x++) {
      const { first, weights } = across[x];
      for (let channel = 0; channel < 3; channel++) {
        let sum = PRECISION / 2;
        let source = (y * width + first) * 4 + channel;
        for (let k = 0; k < weights.length; k++, source += 4) sum += data[source] * weights[k];
        middle[((y - low) * size + x) * 3 + channel] = Math.min(Math.floor(sum / PRECISION), 255);
      }
    }
  }
  const pixels = new Uint8Array(size * size * 3);
  const stride = size * 3;
  for (let y = 0; y < size; y++) {
    const { first, weights } = down[y];
    for (let x = 0; x < stride; x++) {
      let sum = PRECISION / 2;
      let source = (first - low) * stride + x;
      for (let k = 0; k < weights.length; k++, source += stride) sum += middle[source] * weights[k];
      pixels[y * stride + x] = Math.min(Math.floor(sum / PRECISION), 255);
    }
  }
  return pixels;
}
