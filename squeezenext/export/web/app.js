// The page: shows the five best classes of each picture, and the heat map of one class.
import { drawHeat } from "./heat.js";
import { load, run } from "./network.js";
import { decode, prepare } from "./picture.js";

const $ = (id) => document.getElementById(id);
const pictures = []; // {name, width, height, pixels, view, result, button}, see `prepare`
let model, chosen, current, chosenClass, pinned, stream, working = Promise.resolve();

async function start() {
  const response = await fetch("model.json");
  if (!response.ok) throw new Error(`model.json cannot be fetched (${response.status}).`);
  model = await response.json();
  $("about").prepend(`${model.model}, ${model.labels.length} classes. `);
  for (const row of model.files) {
    $("model").add(new Option(`${row.name}, ${megabytes(row.bytes)}`, row.file));
  }
  await choose();
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(2)} MB`;
const percent = (share) => `${(100 * share).toFixed(2)} %`;
const selected = () => model.files.find((entry) => entry.file === $("model").value);

/** Loads the selected network and classifies the current picture again. */
async function choose() {
  fail("");
  const row = selected();
  say(`Loading ${row.name}…`);
  try {
    chosen = { row, network: await load(row), timed: false };
  } catch (error) {
    if (chosen) $("model").value = chosen.row.file; // the network that still runs
    say(chosen ? `Still ${chosen.row.name}.` : "No network is loaded.");
    throw error;
  }
  if (current) await classify(current);
  else say(`Ready: ${row.name}, ${megabytes(row.bytes)}.`);
}

function say(text) {
  $("status").textContent = text;
}

function fail(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

/** Runs jobs one after another, since the runtime can only run one at a time. */
function queue(job) {
  working = working.then(job).catch((error) => fail(error.message));
  return working;
}

async function add(files) {
  fail("");
  const faults = [];
  for (const file of files) {
    try {
      const picture = await decode(file, model.images);
      pictures.push(picture);
      thumbnail(picture);
      await classify(picture);
    } catch (error) {
      faults.push(error.message); // a bad file does not stop the others
    }
  }
  fail(faults.join(" "));
}

function thumbnail(picture) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 96;
  const { width, height } = picture.view;
  const side = Math.min(width, height);
  const [x, y] = [(width - side) / 2, (height - side) / 2];
  canvas.getContext("2d").drawImage(picture.view, x, y, side, side, 0, 0, 96, 96);
  picture.button = document.createElement("button");
  picture.button.type = "button";
  picture.button.setAttribute("aria-label", picture.name);
  picture.button.append(canvas);
  picture.button.addEventListener("click", () => queue(() => classify(picture)));
  const item = document.createElement("li");
  item.append(picture.button);
  $("strip").append(item);
}

async function classify(picture) {
  if (!chosen) await choose();
  const { network, row } = chosen;
  picture.result = { row, ...(await run(network, picture.pixels, model.temperature)) };
  current = picture;
  if (!picture.live) pinned = false;
  for (const other of pictures) other.button?.setAttribute("aria-current", other === picture);
  show();
  if (chosen.timed) return;
  // The first run also lays out the network's weights, so the second one is timed.
  chosen.timed = true;
  picture.result.milliseconds = (await run(network, picture.pixels, 1)).milliseconds;
  tell();
}

function show() {
  const { probabilities } = current.result;
  const best = [...probabilities.keys()]
    .sort((a, b) => probabilities[b] - probabilities[a] || a - b)
    .slice(0, 5);
  current.result.best = best[0];
  if (!pinned) chosenClass = best[0];
  const rows = $("classes").children;
  while (rows.length < best.length) $("classes").append(classRow());
  best.forEach((index, place) => fill(rows[place].firstChild, index, probabilities[index]));
  tell();
  draw();
}

/** Writes the best class to the status line for screen readers; for the camera only if it changes. */
function tell() {
  const { best, known, milliseconds, probabilities, row } = current.result;
  const label = known < 0.5 ? `unknown, most like ${model.labels[best]}` : model.labels[best];
  if (current.live) {
    if (!$("status").textContent.startsWith(`${label} (`)) say(`${label} (${row.name}).`);
    return;
  }
  const size = megabytes(row.bytes);
  const speed = `${row.name}: ${milliseconds.toFixed(1)} ms, ${size}.`;
  say(`${label}, ${percent(probabilities[best])}. ${speed}`);
}

/** Returns a row of the list. Rows are reused, so that camera frames do not disturb focus or clicks. */
function classRow() {
  const button = document.createElement("button");
  button.type = "button";
  const [name, score, bar] = ["span", "span", "span"].map((tag) => document.createElement(tag));
  bar.className = "bar";
  button.append(name, score, bar);
  button.addEventListener("click", () => {
    chosenClass = Number(button.dataset.index);
    pinned = true;
    for (const other of $("classes").querySelectorAll("button")) press(other);
    draw();
  });
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function fill(button, index, probability) {
  const [name, score, bar] = button.children;
  name.textContent = model.labels[index];
  score.textContent = percent(probability);
  bar.style.width = `${100 * probability}%`;
  button.dataset.index = index;
  press(button);
}

function press(button) {
  button.setAttribute("aria-pressed", Number(button.dataset.index) === chosenClass);
}

function draw() {
  const { view, name } = current;
  const canvas = $("picture");
  canvas.width = view.width;
  canvas.height = view.height;
  const context = canvas.getContext("2d");
  context.drawImage(view, 0, 0);
  const label = model.labels[chosenClass];
  const heat = $("heat").checked;
  if (heat) drawHeat(context, current, chosenClass, model);
  canvas.setAttribute("aria-label", heat ? `${name}, with the places of ${label}` : name);
  canvas.hidden = false;
  $("hint").hidden = true;
}

async function toggleCamera() {
  fail("");
  if (stream) return stopCamera();
  const button = $("camera");
  button.disabled = true; // a second click while the browser asks would open a second stream
  try {
    if (!navigator.mediaDevices) throw new Error("it needs https, or a page of this machine");
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    $("video").srcObject = stream;
    await $("video").play();
  } catch (error) {
    if (stream) stopCamera();
    return fail(`The camera cannot be used: ${error.message ?? error}.`);
  } finally {
    button.disabled = false;
  }
  button.setAttribute("aria-pressed", "true");
  pinned = false;
  while (stream) {
    await queue(frame);
    await new Promise(requestAnimationFrame);
  }
}

async function frame() {
  const { videoWidth, videoHeight } = $("video");
  if (!stream || !videoWidth) return;
  const picture = prepare("Camera", $("video"), videoWidth, videoHeight, model.images);
  await classify({ ...picture, live: true });
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
