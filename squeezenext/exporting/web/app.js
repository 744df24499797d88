// The page: pictures in, the five best classes and the heat map of one of them out.
import { centrePixels, centreWindow } from "./preprocessing.js";
import { load, run } from "./network.js";

const $ = (id) => document.getElementById(id);
const MAX_PIXELS = 50e6; // preprocessing.py's limit
const SHOWN_SIDE = 800;
const INFERNO = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];
const pictures = []; // {name, image, result, button}
let model, network, current, chosenClass, stream, working = Promise.resolve();

async function start() {
  model = await (await fetch("model.json")).json();
  document.title = $("about").previousElementSibling.textContent;
  for (const row of model.files) {
    $("model").add(new Option(`${row.name}, ${megabytes(row.bytes)}`, row.file));
  }
  await choose();
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(2)} MB`;
const row = () => model.files.find((entry) => entry.file === $("model").value);

/** Takes the chosen model, and names the current picture again. */
async function choose() {
  say(`Loading ${row().name}…`);
  const wanted = row();
  const found = await load(wanted);
  if (wanted !== row()) return; // another was chosen in the meantime
  network = found;
  if (current) await classify(current);
  else say(`Ready: ${row().name}, ${megabytes(row().bytes)}.`);
}

function say(text) {
  $("status").textContent = text;
}

function fail(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

/** Runs jobs one after another: the runtime knows one at a time. */
function queue(job) {
  working = working.then(job).catch((error) => fail(error.message));
  return working;
}

async function decode(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${file.name} is not a picture that this browser can read.`);
  }
  if (bitmap.width * bitmap.height > MAX_PIXELS) {
    throw new Error(`${file.name} is over ${MAX_PIXELS / 1e6} million pixels; make it smaller.`);
  }
  return pixelsOf(bitmap, bitmap.width, bitmap.height);
}

function pixelsOf(source, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // behind what is transparent, as preprocessing.py shows it
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

async function add(files) {
  fail("");
  const faults = [];
  for (const file of files) {
    try {
      const picture = { name: file.name, image: await decode(file) };
      pictures.push(picture);
      thumbnail(picture);
      await classify(picture);
    } catch (error) {
      faults.push(error.message); // one bad file never stops the others
    }
  }
  fail(faults.join(" "));
}

function thumbnail(picture) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 96;
  const { width, height } = picture.image;
  const side = Math.min(width, height);
  const [x, y] = [(width - side) / 2, (height - side) / 2];
  canvas.getContext("2d").drawImage(canvasOf(picture.image), x, y, side, side, 0, 0, 96, 96);
  picture.button = document.createElement("button");
  picture.button.type = "button";
  picture.button.setAttribute("aria-label", picture.name);
  picture.button.append(canvas);
  picture.button.addEventListener("click", () => queue(() => classify(picture)));
  const item = document.createElement("li");
  item.append(picture.button);
  $("strip").append(item);
}

function canvasOf(image) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

async function classify(picture) {
  if (!network) await choose();
  const pixels = centrePixels(picture.image, model.images);
  picture.result = await run(network, pixels, model.temperature);
  current = picture;
  chosenClass = undefined;
  for (const other of pictures) other.button?.setAttribute("aria-current", other === picture);
  show();
}

function show() {
  const { probabilities, milliseconds } = current.result;
  const best = [...probabilities.keys()]
    .sort((a, b) => probabilities[b] - probabilities[a] || a - b)
    .slice(0, 5);
  chosenClass ??= best[0];
  $("classes").replaceChildren(...best.map((index) => classRow(index, probabilities[index])));
  const used = row();
  say(`${used.name}: ${milliseconds.toFixed(1)} ms, ${megabytes(used.bytes)}.`);
  draw();
}

function classRow(index, probability) {
  const percent = `${(100 * probability).toFixed(2)} %`;
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-pressed", index === chosenClass);
  button.dataset.index = index;
  const [name, score, bar] = ["span", "span", "span"].map((tag) => document.createElement(tag));
  name.textContent = model.labels[index];
  score.textContent = percent;
  bar.className = "bar";
  bar.style.width = `${100 * probability}%`;
  button.append(name, score, bar);
  button.addEventListener("click", () => {
    chosenClass = index;
    for (const other of $("classes").querySelectorAll("button")) {
      other.setAttribute("aria-pressed", Number(other.dataset.index) === index);
    }
    draw();
  });
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function draw() {
  const { image, name } = current;
  const scale = Math.min(1, SHOWN_SIDE / Math.max(image.width, image.height));
  const canvas = $("picture");
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  const context = canvas.getContext("2d");
  context.drawImage(canvasOf(image), 0, 0, canvas.width, canvas.height);
  const label = model.labels[chosenClass];
  const heat = $("heat").checked;
  if (heat) drawHeat(context, scale);
  canvas.setAttribute("aria-label", heat ? `${name}, with the places of ${label}` : name);
  canvas.hidden = false;
  $("hint").hidden = true;
}

/** Dims what the network is not shown, and colours the rest by what it adds to the class. */
function drawHeat(context, scale) {
  const { maps, side } = current.result;
  const classes = model.labels.length;
  const values = new Float32Array(side * side);
  for (let i = 0; i < values.length; i++) values[i] = Math.max(maps[i * classes + chosenClass], 0);
  const most = Math.max(values.reduce((a, b) => Math.max(a, b), 0), 1e-9);
  const small = new ImageData(side, side);
  values.forEach((value, i) => small.data.set(colour(value / most), i * 4));
  const window = centreWindow(current.image.height, current.image.width, model.images);
  const box = [window.left, window.top, window.width, window.height].map((x) => x * scale);
  const dim = new Path2D();
  dim.rect(0, 0, context.canvas.width, context.canvas.height);
  dim.rect(...box);
  context.fillStyle = "rgb(0 0 0 / 0.6)";
  context.fill(dim, "evenodd");
  context.imageSmoothingQuality = "high";
  context.drawImage(canvasOf(small), ...box);
}

function colour(share) {
  const place = Math.min(share, 0.999) * (INFERNO.length - 1);
  const [low, high] = [INFERNO[Math.floor(place)], INFERNO[Math.floor(place) + 1]];
  const mixed = low.map((value, i) => value + (high[i] - value) * (place % 1));
  return [...mixed, 255 * 0.65 * share];
}

async function toggleCamera() {
  fail("");
  if (stream) return stopCamera();
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    return fail(`The camera cannot be used: ${error.message ?? error}.`);
  }
  $("camera").setAttribute("aria-pressed", "true");
  $("video").srcObject = stream;
  await $("video").play();
  while (stream) {
    const { videoWidth, videoHeight } = $("video");
    if (videoWidth) {
      const image = pixelsOf($("video"), videoWidth, videoHeight);
      await queue(() => classify({ name: "Camera", image }));
    }
    await new Promise(requestAnimationFrame);
  }
}

function stopCamera() {
  for (const track of stream.getTracks()) track.stop();
  stream = undefined;
  $("camera").setAttribute("aria-pressed", "false");
}

$("files").addEventListener("change", (event) => {
  const files = [...event.target.files];
  event.target.value = ""; // so that the same file can be chosen again
  queue(() => add(files));
});
$("model").addEventListener("change", () => queue(choose));
$("heat").addEventListener("change", () => current && draw());
$("camera").addEventListener("click", toggleCamera);
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("stage").classList.toggle("over", kind === "dragover");
    if (kind === "drop") queue(() => add([...event.dataTransfer.files]));
  });
}
queue(start);
