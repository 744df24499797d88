// <squeeze-classifier>, an element for anybody's page, which need not lie in this folder:
//
//     <script type="module" src="site/squeeze-classifier.js"></script>
//     <squeeze-classifier top="3" network="int8"></squeeze-classifier>
//
// It asks for a picture, or shows what is in that of `src`. Each answer is also an event,
// "classified", with {name, known, classes: [{index, label, probability}, ...]} as its `detail`.
import { load, run } from "./network.js";
import { decode } from "./picture.js";

let model; // a promise of model.json
let working = Promise.resolve(); // the runtime runs one network at a time

async function fetched(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} cannot be fetched (${response.status}).`);
  return response;
}

class SqueezeClassifier extends HTMLElement {
  static observedAttributes = ["src"];
  #turn = 0; // of the newest picture; an older one that comes later is not shown

  connectedCallback() {
    if (this.shadowRoot) return;
    this.attachShadow({ mode: "open" }).innerHTML = `
      <label part="choose"><slot>Choose a picture</slot> <input type="file" accept="image/*"></label>
      <p part="status" role="status"></p><ol part="classes"></ol>`;
    const input = this.shadowRoot.querySelector("input");
    input.addEventListener("change", () => input.files[0] && this.#try(() => input.files[0]));
    if (this.hasAttribute("src")) this.attributeChangedCallback();
  }

  attributeChangedCallback() {
    const src = this.getAttribute("src");
    if (!this.shadowRoot || !src) return;
    this.#try(async () => new File([await (await fetched(src)).blob()], src.split("/").pop()));
  }

  /** Returns what the event says about a File; faults are Errors with a sentence. */
  async classify(file) {
    model ??= fetched(new URL("model.json", import.meta.url).href).then((found) => found.json());
    const { files, images, labels, temperature } = await model;
    const row = files.find(({ name }) => name === this.getAttribute("network")) ?? files[0];
    const { pixels } = await decode(file, images);
    const job = async () => run(await load(row), pixels, temperature);
    const done = working.then(job);
    working = done.catch(() => {});
    const { known, probabilities } = await done;
    const classes = [...probabilities.keys()]
      .sort((a, b) => probabilities[b] - probabilities[a] || a - b)
      .slice(0, Number(this.getAttribute("top") ?? 5))
      .map((index) => ({ index, label: labels[index], probability: probabilities[index] }));
    return { name: file.name, known, classes };
  }

  async #try(file) {
    const [status, list] = this.shadowRoot.querySelectorAll("p, ol");
    const turn = ++this.#turn;
    status.textContent = "…";
    try {
      const detail = await this.classify(await file());
      if (turn !== this.#turn) return;
      status.textContent = detail.known < 0.5 ? `${detail.name}: unknown, most like` : detail.name;
      list.replaceChildren(
        ...detail.classes.map(({ label, probability }) => {
          const item = document.createElement("li");
          item.textContent = `${label}, ${(100 * probability).toFixed(2)} %`;
          return item;
        }),
      );
      this.dispatchEvent(new CustomEvent("classified", { detail, bubbles: true, composed: true }));
    } catch (error) {
      if (turn !== this.#turn) return;
      list.replaceChildren();
      status.textContent = error.message;
    }
  }
}

customElements.define("squeeze-classifier", SqueezeClassifier);
