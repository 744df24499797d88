// A picture as the page keeps it, scaled down: a whole photograph takes 48 MB, too much for phones.
import { centrePixels } from "./preprocessing.js";

const MAX_PIXELS = 50e6; // 200 MB as RGBA
const SHOWN_SIDE = 800;

/** Returns the picture of a file, see `prepare`; throws an Error if there is none. */
export async function decode(file, images) {
  let bitmap;
  const turned = await orientationOfWebP(file);
  const imageOrientation = turned > 1 ? "none" : "from-image";
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation });
  } catch {
    throw new Error(`${file.name} is not a picture that this browser can read; save it as JPEG.`);
  }
  try {
    if (bitmap.width * bitmap.height > MAX_PIXELS) {
      throw new Error(`${file.name} is over ${MAX_PIXELS / 1e6} million pixels; make it smaller.`);
    }
    const source = turned > 1 ? upright(bitmap, turned) : bitmap;
    return prepare(file.name, source, source.width, source.height, images);
  } finally {
    bitmap.close();
  }
}

/** Returns EXIF's orientation, 1 to 8, of a WebP file: Chromium 156 turns JPEG, PNG and AVIF only. */
async function orientationOfWebP(file) {
  const name = (bytes) => String.fromCharCode(...new Uint8Array(bytes));
  const head = name(await file.slice(0, 12).arrayBuffer());
  if (!head.startsWith("RIFF") || !head.endsWith("WEBP")) return 1;
  for (let at = 12, chunks = 0; at + 8 <= file.size && chunks < 1000; chunks++) {
    const chunk = await file.slice(at, at + 8).arrayBuffer();
    const size = new DataView(chunk).getUint32(4, true);
    const end = at + 8 + size;
    if (name(chunk.slice(0, 4)) === "EXIF") {
      return orientation(new DataView(await file.slice(at + 8, end).arrayBuffer()));
    }
    at = end + (size % 2);
  }
  return 1;
}

function orientation(exif) {
  try {
    const tiff = exif.getUint32(0) === 0x45786966 ? 6 : 0; // some programs write "Exif\0\0" first
    const little = exif.getUint16(tiff) === 0x4949;
    const first = tiff + exif.getUint32(tiff + 4, little);
    for (let entry = 0; entry < exif.getUint16(first, little); entry++) {
      const at = first + 2 + 12 * entry;
      if (exif.getUint16(at, little) !== 0x0112) continue;
      const held = exif.getUint16(at + 8, little);
      return held >= 1 && held <= 8 ? held : 1;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // damaged, which means upright
  }
  return 1;
}

/** Returns a canvas with the picture turned as EXIF's orientation says. */
function upright(bitmap, orientation) {
  const { width, height } = bitmap;
  const sides = orientation > 4 ? [height, width] : [width, height];
  const canvas = new OffscreenCanvas(...sides);
  const context = canvas.getContext("2d");
  // Where the picture's x and y axes point on the canvas.
  const across = [1, 0, -1, 0, -1, 0, 1, 0, 0, 1, 0, 1, 0, -1, 0, -1].slice(2 * orientation - 2);
  const down = [0, 1, 0, 1, 0, -1, 0, -1, 1, 0, -1, 0, -1, 0, 1, 0].slice(2 * orientation - 2);
  const shift = (axis) => (across[axis] + down[axis] < 0 ? sides[axis] : 0);
  context.imageSmoothingEnabled = false;
  context.setTransform(...across.slice(0, 2), ...down.slice(0, 2), shift(0), shift(1));
  context.drawImage(bitmap, 0, 0);
  return canvas;
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
