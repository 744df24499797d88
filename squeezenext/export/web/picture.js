// A picture as the page keeps it, scaled down: a whole photograph takes 48 MB, too much for phones.
import { centrePixels } from "./preprocessing.js";

const MAX_PIXELS = 50e6; // 200 MB as RGBA
const SHOWN_SIDE = 800;

/** Returns the picture of a file, see `prepare`; throws an Error if there is none. */
export async function decode(file, images) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${file.name} is not a picture that this browser can read; save it as JPEG.`);
  }
  try {
    if (bitmap.width * bitmap.height > MAX_PIXELS) {
      throw new Error(`${file.name} is over ${MAX_PIXELS / 1e6} million pixels; make it smaller.`);
    }
    return prepare(file.name, bitmap, bitmap.width, bitmap.height, images);
  } finally {
    bitmap.close();
  }
}

/** Returns the picture: name, width, height, the network's pixels, and a view to draw. */
export function prepare(name, source, width, height, images) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // behind transparent regions, as in images/decoding.py
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0, width, height);
  const pixels = centrePixels(context.getImageData(0, 0, width, height), images);
  const scale = Math.min(1, SHOWN_SIDE / Math.max(width, height));
  const sides = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  const view = new OffscreenCanvas(...sides);
  view.getContext("2d").drawImage(canvas, 0, 0, ...sides);
  return { name, width, height, pixels, view };
}
