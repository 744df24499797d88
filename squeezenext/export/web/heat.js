// Draws a heat map over a picture, in the colours of matplotlib's inferno.
import { centreWindow } from "./preprocessing.js";

const INFERNO = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

/** Dims the region outside of the crop, and colours the crop by each position's share of the class. */
export function drawHeat(context, picture, index, model) {
  const { maps, probabilities, side: whole } = picture.result;
  const classes = probabilities.length;
  const margin = model.head_padding; // zeros around the classifier's map, outside of the picture
  const side = whole - 2 * margin;
  const values = new Float32Array(side * side);
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const place = (y + margin) * whole + x + margin;
      values[y * side + x] = Math.max(maps[place * classes + index], 0);
    }
  }
  const most = Math.max(values.reduce((a, b) => Math.max(a, b), 0), 1e-9);
  const small = new ImageData(side, side);
  values.forEach((value, i) => small.data.set(colour(value / most), i * 4));
  const window = centreWindow(picture.height, picture.width, model.images);
  const [wide, tall] = [context.canvas.width / picture.width, context.canvas.height / picture.height];
  const box = [window.left * wide, window.top * tall, window.width * wide, window.height * tall];
  const dim = new Path2D();
  dim.rect(0, 0, context.canvas.width, context.canvas.height);
  dim.rect(...box);
  context.fillStyle = "rgb(0 0 0 / 0.6)";
  context.fill(dim, "evenodd");
  context.imageSmoothingQuality = "high";
  const map = new OffscreenCanvas(side, side);
  map.getContext("2d").putImageData(small, 0, 0);
  context.drawImage(map, ...box);
}

function colour(share) {
  const place = Math.min(share, 0.999) * (INFERNO.length - 1);
  const [low, high] = [INFERNO[Math.floor(place)], INFERNO[Math.floor(place) + 1]];
  const mixed = low.map((value, i) => value + (high[i] - value) * (place % 1));
  return [...mixed, 255 * 0.65 * share];
}
