// The page: an image comes in, is scored, and is shown with what the endpoint said of it.

import { Problem, ask } from "./api.js";
import { drawHistogram, number } from "./histogram.js";
import { drawMap } from "./map.js";

const LAST = 10; // tries that are kept
const DECISIONS = { ok: "Looks good", review: "Look at it again", anomalous: "Anomalous" };
const REFUSALS = { 401: "A token is needed", 413: "The image is too large", 422: "This image cannot be scored", 429: "Too busy just now", 503: "Not ready just now" };
const FOR_ANOTHER_TRY = [0, 401, 408, 429, 500, 502, 503, 504];
const at = (id) => document.getElementById(id);

// A try: {image: {blob, name, url, shows}, category, answer or problem, details of the model, button}.
const tries = []; // newest first
const details = new Map(); // category to the promise of what is known of its model
let models = new Map(); // category to the model in use
let current = null; // the try on view
let running = null; // what aborts the request of now
let again = null; // what "Try again" does
let ready = null; // the promise of the categories

// ---- the models -----------------------------------------------------------------------------------------------------

function begin() {
  ready = start();
}

async function start() {
  again = begin;
  tell("busy", "Asking for the categories");
  try {
    models = new Map((await ask("v1/categories")).map((model) => [model.category, model]));
  } catch (error) {
    return refuse(error);
  }
  const wanted = at("category").value || named();
  at("category").replaceChildren(...[...models.keys()].map((name) => new Option(name, name, false, name === wanted)));
  for (const id of ["category", "file", "camera"]) at(id).disabled = !models.size;
  if (!models.size) return refuse(new Problem(503, "No model is in use yet: one has to be fitted first."));
  choose();
  tell("waiting", "Waiting for an image", "Choose, drop or paste one, or take a photo.");
}

/** The category that the address names behind #, so that each line can have its bookmark. */
function named() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
}

function choose() {
  const category = at("category").value;
  history.replaceState(null, "", `#${encodeURIComponent(category)}`);
  at("untrained").hidden = models.get(category).pretrained;
  known(category).catch(() => {}); // it is asked for again where it is needed
  offerAgain();
}

/** What is known of a category's model; asked for anew where another version has scored meanwhile. */
async function known(category, version = null) {
  const held = details.get(category);
  if (held && (version === null || (await held).version === version)) return held;
  const asked = ask(`v1/categories/${encodeURIComponent(category)}`);
  details.set(category, asked);
  asked.then((found) => models.set(category, found), () => details.delete(category));
  return asked;
}

// ---- a try ----------------------------------------------------------------------------------------------------------

async function take(files) {
  const file = [...files][0];
  await ready;
  if (!file || !models.size) return; // why is told already
  let blob;
  try {
    blob = new Blob([await file.arrayBuffer()], { type: file.type }); // a camera may overwrite its file
  } catch {
    return refuse(new Problem(422, `${file.name} cannot be read: is it a folder, or gone?`));
  }
  const image = { blob, name: file.name || "pasted image", url: URL.createObjectURL(blob) };
  image.shows = await decodes(image.url);
  await score(image);
}

/** Whether this browser can show an image; of others, such as TIFF files, the endpoint draws the picture. */
function decodes(url) {
  const probe = new Image();
  probe.src = url;
  return probe.decode().then(() => true, () => false);
}

async function score(image) {
  running?.abort();
  const { signal } = (running = new AbortController());
  const tried = { image, category: at("category").value };
  show(tried);
  try {
    const path = `v1/score?${new URLSearchParams({ category: tried.category, map: image.shows ? "array" : "png" })}`;
    const headers = { "Content-Type": "application/octet-stream" }; // the endpoint looks into the file itself
    tried.answer = await ask(path, { method: "POST", body: image.blob, headers, signal });
    tried.details = await known(tried.category, tried.answer.model_version).catch((problem) => ({ problem }));
  } catch (error) {
    if (!signal.aborted && !(error instanceof Problem)) throw error;
    tried.problem = error;
  }
  if (signal.aborted) return;
  if (tried.answer || tried.problem.status === 422) remember(tried);
  show(tried);
}

function remember(tried) {
  const button = made("button", "try", made("img"), made("strong", "", said(tried)), made("span", "", about(tried)), made("span", "fine", tried.image.name));
  button.type = "button";
  button.dataset.state = tried.answer?.status ?? "refused";
  const picture = pictureOf(tried);
  button.firstChild.alt = "";
  if (picture) button.firstChild.src = picture;
  else button.firstChild.remove();
  button.addEventListener("click", () => show(tried));
  tried.button = button;
  tries.unshift(tried);
  const item = made("li");
  item.append(button);
  at("tries").prepend(item);
  at("tried").hidden = false;
  for (const old of tries.splice(LAST)) {
    old.button.parentNode.remove();
    if (![current, ...tries].some((other) => other.image === old.image)) URL.revokeObjectURL(old.image.url);
  }
}

const said = (tried) => (tried.answer ? DECISIONS[tried.answer.status] : "Not scored");
const about = ({ answer, category }) => (answer ? `${number(answer.anomaly_score)}, ${category}` : category);

/** An image to look at: the file itself, or what the endpoint drew, or nothing. */
function pictureOf({ image, answer }) {
  if (image.shows) return image.url;
  return answer?.map?.png ? `data:image/png;base64,${answer.map.png}` : null;
}

// ---- what is on view ------------------------------------------------------------------------------------------------

function show(tried) {
  current = tried;
  again = () => score(tried.image);
  for (const { button } of tries) button.setAttribute("aria-current", button === tried.button);
  showPicture(tried);
  at("numbers").hidden = at("histogram").hidden = !tried.answer;
  if (tried.answer) showAnswer(tried);
  else if (tried.problem) refuse(tried.problem);
  else tell("busy", "Scoring …", tried.image.name);
  offerAgain();
}

function showAnswer({ image, category, answer, details: found }) {
  const { status, anomaly_score: score, threshold, review_threshold: review, p_value: p } = answer;
  const histogram = found.version === answer.model_version ? found.histogram : null;
  tell(status, DECISIONS[status], among(score, p, histogram));
  at("untrained").hidden = found.pretrained ?? models.get(category)?.pretrained ?? true;
  const rows = [
    ["Score", number(score), "large"],
    ["Anomalous from", number(threshold), "large"],
    ["Review from", number(review), "large"],
    ["p-value", number(p)],
    ["Category", category],
    ["Model version", answer.model_version, "code"],
    ["Image", `${image.name}, ${answer.width} × ${answer.height}`],
    ["Time", `${Math.round(answer.milliseconds.total)} ms`],
  ];
  at("numbers").replaceChildren(...rows.map(([name, value, kind]) => made("div", kind, made("dt", "", name), made("dd", "", value))));
  const svg = at("histogram").querySelector("svg");
  svg.toggleAttribute("hidden", !histogram);
  at("histogram").querySelector("figcaption").textContent = histogram
    ? drawHistogram(svg, histogram, { score, threshold, review })
    : `No histogram: ${found.problem?.message ?? "the model has changed meanwhile."}`;
}

/** The p-value in words. */
function among(score, p, histogram) {
  if (histogram && score > histogram.edges.at(-1)) {
    const n = histogram.counts.reduce((sum, count) => sum + count, 0);
    return `Its score is higher than those of all ${n} good images that it is compared with.`;
  }
  return `About ${Number((100 * p).toPrecision(2))} % of good images have a score as high as this or higher.`;
}

function showPicture(tried) {
  const picture = pictureOf(tried);
  at("picture").hidden = !picture;
  if (!picture) return;
  const { image, answer } = tried;
  at("image").src = picture;
  at("image").alt = image.shows ? `The image ${image.name}` : `The image ${image.name} with its map, as the endpoint drew it`;
  at("image").onload = () => {
    const ratio = image.shows || !answer ? at("image").naturalWidth / at("image").naturalHeight : answer.width / answer.height;
    at("picture").querySelector(".stack").style.setProperty("--ratio", ratio || 1);
  };
  const values = answer?.map?.values;
  at("map").hidden = at("picture").querySelector(".slider").hidden = !values;
  at("explained").textContent = answer?.map ? "Colour shows where it differs most from good images." : "";
  if (!values) return;
  drawMap(at("map"), values);
  const percent = (part) => `${Math.round(100 * part)} %`;
  at("map").setAttribute("aria-label", answer.peak_x === null ? "Map" : `Map; its peak is ${percent(answer.peak_x)} from the left and ${percent(answer.peak_y)} from the top`);
}

function tell(state, decision, reason = "") {
  at("decision").dataset.state = state;
  at("decision").textContent = decision;
  at("reason").textContent = reason;
  at("again").hidden = true;
}

function refuse(problem) {
  const { status, message, retryAfter, requestId } = problem;
  const when = retryAfter ? ` Try again in ${retryAfter} s.` : "";
  const where = status >= 500 && requestId ? ` The log has it under ${requestId}.` : "";
  tell("refused", REFUSALS[status] ?? "It did not work", `${message}${when}${where}`);
  at("again").hidden = !FOR_ANOTHER_TRY.includes(status);
  at("again").textContent = "Try again";
}

/** An image that was scored as one category can be scored as another that was chosen since. */
function offerAgain() {
  if (!current?.answer || current.category === at("category").value) return;
  at("again").textContent = `Score it as ${at("category").value}`;
  at("again").hidden = false;
}

function made(name, kind = "", ...content) {
  const element = document.createElement(name);
  if (kind) element.className = kind;
  element.append(...content); // strings become text, never markup
  return element;
}

// ---- how images come in ---------------------------------------------------------------------------------------------

for (const id of ["file", "camera"]) {
  at(id).addEventListener("change", async () => {
    const files = [...at(id).files];
    at(id).value = ""; // the same file may be chosen again
    await take(files);
  });
}
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragged");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragged");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragged");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files);
  else refuse(new Problem(422, "What was dropped is no file: save the image first, then drop its file."));
});
at("category").addEventListener("change", choose);
at("opacity").addEventListener("input", () => (at("map").style.opacity = at("opacity").value / 100));
at("again").addEventListener("click", () => again());
begin();
