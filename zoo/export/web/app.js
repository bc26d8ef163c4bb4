// The page: takes pictures and camera frames, lets worker.js label them, and shows the answers.
//
// Names of classes and files are only ever set as text, never as HTML.

import { answerOf } from "./answer.js";
import { Camera } from "./camera.js";

const BARS = 5;
// The page remembers this many pictures of a visit.
const REMEMBERED = 60;

const part = (id) => document.getElementById(id);
const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map();
let info;
let nextId = 0;
let shown = null;
let showAll = false;
let earlier = [];

function ask(content, transfer = []) {
  return new Promise((resolve, reject) => {
    const id = nextId++;
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, ...content }, transfer);
  });
}

worker.addEventListener("message", ({ data }) => {
  if ("id" in data) {
    const { resolve, reject } = waiting.get(data.id);
    waiting.delete(data.id);
    return "error" in data ? reject(new Error(data.error)) : resolve(data);
  }
  if ("loaded" in data) part("progress").value = data.loaded / data.total;
  if ("ready" in data) part("loading").hidden = true;
  if ("failed" in data) fail(data.failed);
});

worker.addEventListener("error", (event) => fail(event.message || "its scripts cannot be loaded."));

function fail(reason) {
  part("loading").hidden = true;
  part("choose").disabled = part("camera").disabled = true;
  complain(
    location.protocol === "file:"
      ? "Browsers do not run this page from a file. Serve its folder: python -m http.server --directory FOLDER"
      : `The network cannot be loaded: ${reason} Reload the page to try again.`
  );
  for (const { reject } of waiting.values()) reject(new Error("The network is not loaded."));
  waiting.clear();
}

function complain(text) {
  part("message").textContent = text;
  part("message").hidden = false;
  part("result").hidden = true;
  part("hint").hidden = true;
}

// --- Pictures

async function take(files) {
  camera.stop();
  for (const file of files) {
    const entry = { file, url: URL.createObjectURL(file), name: file.name || "pasted picture" };
    remember(entry);
    if (file === files[0]) select(entry);
    ask({ file }).then(
      (outputs) => settle(entry, { outputs }),
      (error) => settle(entry, { error: error.message })
    );
  }
}

function remember(entry) {
  entry.item = document.createElement("li");
  entry.button = document.createElement("button");
  entry.button.type = "button";
  entry.picture = new Image();
  entry.picture.alt = "";
  entry.picture.src = entry.url;
  // A file that the browser cannot show would have the icon of a broken picture.
  entry.picture.addEventListener("error", () => { entry.picture.style.visibility = "hidden"; });
  entry.caption = document.createElement("span");
  entry.caption.textContent = "…";
  entry.button.append(entry.picture, entry.caption);
  entry.button.addEventListener("click", () => {
    camera.stop();
    select(entry);
    part("stage").scrollIntoView({ block: "nearest" });
  });
  entry.item.append(entry.button);
  part("list").prepend(entry.item);
  earlier.unshift(entry);
  for (const old of earlier.splice(REMEMBERED)) {
    old.item.remove();
    URL.revokeObjectURL(old.url);
  }
  part("history").hidden = earlier.length < 2;
}

function settle(entry, found) {
  Object.assign(entry, found);
  entry.answer = found.outputs && answerOf(found.outputs.probabilities, found.outputs.score, info);
  entry.caption.textContent = entry.answer ? titleOf(entry.answer) : "cannot be read";
  entry.button.title = entry.name;
  if (shown === entry) showEntry(entry);
}

function select(entry) {
  shown = entry;
  for (const each of earlier) each.button.setAttribute("aria-current", String(each === entry));
  part("empty").hidden = true;
  part("picture").hidden = false;
  part("picture").src = entry.url;
  part("picture").alt = entry.name;
  showEntry(entry);
}

function showEntry(entry) {
  if (entry.error) {
    // A format that the browser does not know would show as a broken picture.
    part("picture").hidden = true;
    part("empty").hidden = false;
    complain(`${entry.name}: ${entry.error}`);
  } else if (entry.answer) {
    showAnswer(entry.answer, `${entry.name}, ${Math.round(entry.outputs.seconds * 1000)} ms`);
    speak(titleOf(entry.answer), entry.answer);
  }
}

// --- Answers

function percent(probability) {
  // 99.96 % is not 100 %.
  const text = (100 * probability).toFixed(1);
  return `${text === "100.0" && probability < 1 ? "> 99.9" : text} %`;
}

function titleOf(answer) {
  if (answer.unknown) return "unknown";
  return answer.labels.join(", ") || "none of the classes";
}

function noteOf(answer) {
  if (answer.unknown) {
    return `Not sure enough to answer: the likeliest class has ${percent(answer.confidence)}, less than the file asks for.`;
  }
  return info.task === "multilabel" ? "A picture may have several classes, or none." : percent(answer.confidence);
}

function showAnswer(answer, about) {
  part("message").hidden = part("hint").hidden = true;
  part("result").hidden = false;
  part("label").textContent = titleOf(answer);
  part("label").classList.toggle("unsure", answer.labels.length === 0);
  part("note").textContent = noteOf(answer);
  part("outlier").hidden = !answer.outlier;
  showBars(answer);
  showDetails(answer, about);
}

function showBars(answer) {
  const count = showAll ? answer.ranked.length : Math.min(BARS, answer.ranked.length);
  const list = part("bars");
  while (list.children.length > count) list.lastChild.remove();
  while (list.children.length < count) {
    const item = document.createElement("li");
    for (const name of ["name", "percent"]) {
      const span = document.createElement("span");
      span.className = name;
      item.append(span);
    }
    list.append(item);
  }
  const assigned = new Set(answer.labels);
  answer.ranked.slice(0, count).forEach(({ name, probability }, i) => {
    const item = list.children[i];
    item.firstChild.textContent = name;
    item.lastChild.textContent = percent(probability);
    item.classList.toggle("assigned", assigned.has(name));
    item.style.setProperty("--share", probability);
  });
  part("more").hidden = answer.ranked.length <= BARS;
  part("more").textContent = showAll ? "Show fewer" : `Show all ${answer.ranked.length} classes`;
  part("more").setAttribute("aria-expanded", String(showAll));
  part("more").onclick = () => {
    showAll = !showAll;
    showBars(answer);
  };
}

function showDetails(answer, about) {
  const list = part("details");
  list.replaceChildren();
  const rows = Object.entries(answer.sets).map(([coverage, names]) => [
    `${+(100 * coverage).toFixed(1)} % label set`,
    names.join(", ") || "empty: the network has seldom been so unsure",
  ]);
  if (answer.outlierScore !== null) {
    rows.push(["Outlier score", `${answer.outlierScore.toFixed(3)} (unusual above ${info.trust.outlier_above?.toFixed(3)})`]);
  }
  rows.push(["Picture", about]);
  for (const texts of rows) {
    for (const [i, tag] of ["dt", "dd"].entries()) {
      const cell = document.createElement(tag);
      cell.textContent = texts[i];
      list.append(cell);
    }
  }
}

// Tell screen readers an answer. Of a camera, only changes are told.
function speak(title, answer) {
  const text = answer.unknown || !answer.labels.length ? title : `${title}, ${percent(answer.confidence)}`;
  part("spoken").textContent = `${text}${answer.outlier ? ". Unlike the training pictures." : ""}`;
}

// --- The camera

const camera = new Camera(part("video"), {
  label: (frame) => ask({ frame }, [frame]),
  show({ probabilities, score }, seconds) {
    const answer = answerOf(probabilities, score, info);
    const title = titleOf(answer);
    if (title !== part("label").textContent || part("result").hidden) speak(title, answer);
    showAnswer(answer, `camera, ${Math.round(seconds * 1000)} ms`);
  },
  changed(state, reason) {
    const on = state === "on";
    part("camera").textContent = on ? "Stop camera" : "Start camera";
    part("camera").setAttribute("aria-pressed", String(on));
    part("video").hidden = !on;
    part("flip").hidden = !(on && camera.several);
    if (on) {
      shown = null;
      for (const each of earlier) each.button.removeAttribute("aria-current");
      part("picture").hidden = part("empty").hidden = true;
    } else {
      part("picture").hidden = !shown;
      part("empty").hidden = Boolean(shown);
    }
    if (reason) complain(reason);
  },
});

part("camera").addEventListener("click", () => (camera.on ? camera.stop() : camera.start()));
part("flip").addEventListener("click", () => camera.flip());

// --- Ways to give pictures

part("choose").addEventListener("click", () => part("files").click());
part("files").addEventListener("change", ({ target }) => {
  take([...target.files]);
  target.value = "";
});

addEventListener("paste", ({ clipboardData }) => {
  const files = [...(clipboardData?.files ?? [])];
  if (files.length) take(files);
});

addEventListener("dragover", (event) => {
  event.preventDefault();
  part("stage").classList.add("over");
});
addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) part("stage").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  part("stage").classList.remove("over");
  const files = [...event.dataTransfer.files];
  if (files.length) take(files);
  else complain("Only files can be dropped. Save the picture first, or copy it and paste it here.");
});

// --- Start

async function start() {
  info = await (await fetch("model.json")).json();
  const { classes, architecture, image } = info;
  const [height, width] = image.size;
  part("summary").textContent = [`${classes.length} classes`, architecture, `${width} × ${height} pixels`]
    .filter(Boolean)
    .join(" · ");
}

async function keepOffline() {
  if (!navigator.serviceWorker) {
    part("offline").textContent = isSecureContext
      ? "This browser does not keep pages for offline use."
      : "The camera and offline use need https:// or localhost.";
    return;
  }
  await navigator.serviceWorker.register("sw.js", { updateViaCache: "none" });
  await navigator.serviceWorker.ready;
  part("offline").textContent = "This page also works offline.";
}

start().catch((error) => fail(error.message));
keepOffline().catch((error) => {
  // The page works without it.
  console.warn(error);
  part("offline").textContent = "This page could not be kept for offline use.";
});
