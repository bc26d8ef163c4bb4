// The page of `zoo-runtime serve`. Class names and messages come from files and clients: they are only ever set as text.
"use strict";

const $ = (id) => document.getElementById(id);
const FEW = 5;
const MOST_NAMED = 3;
const FRAME_MS = 350;
const FRAME_SIDE = 960;
const AGAIN = [0, 408, 503];   // the same picture may have an answer later

let models = [];
let limits = { body: Infinity, seconds: 30 };
let last = null;          // the picture that was asked last
let shown = null;         // its answer
let asked = 0;            // counts questions, so that a late answer never replaces a later one
let all = false;          // whether all classes are shown
let stream = null;        // the camera
let url = null;           // the preview

// The service

function headers() {
  const token = sessionStorage.getItem("token");
  return token ? { Authorization: `Bearer ${token}` } : {};
}

class Failed extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failed(0, "The service does not answer. It may have been stopped, or the network is gone.");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  throw new Failed(response.status, answer.message || `The service answered with the code ${response.status}.`);
}

async function start() {
  try {
    const answer = await ask("models");
    models = answer.models;
    limits = answer.limits;
  } catch (error) {
    if (error.status === 401) return askForToken(Boolean(sessionStorage.getItem("token")));
    return fatal(error.message);
  }
  const hadForm = !$("token-form").hidden;
  $("token-form").hidden = $("fatal").hidden = true;
  $("work").hidden = false;
  // The field that had the focus has gone.
  if (hadForm) $("choose").focus();
  const select = $("model");
  const before = select.value;
  select.replaceChildren(...models.map((model) => {
    const option = document.createElement("option");
    option.value = option.textContent = model.name;
    return option;
  }));
  if (models.some((model) => model.name === before)) select.value = before;
  $("model-field").hidden = models.length < 2;
  describe();
}

function model() {
  return models.find((one) => one.name === $("model").value) || models[0];
}

function describe() {
  const one = model();
  $("foot").textContent = `${one.name}, ${one.classes.length} classes, version ${one.version}`;
}

function askForToken(wrong) {
  sessionStorage.removeItem("token");
  stopCamera();
  $("work").hidden = true;
  $("token-form").hidden = false;
  if (wrong) fatal("This token is wrong."); else $("fatal").hidden = true;
  $("token").focus();
}

function fatal(message) {
  $("fatal").textContent = message;
  $("fatal").hidden = false;
}

// One picture

async function classify(picture, live = false) {
  const number = ++asked;
  last = live ? null : picture;
  if (!live) {
    $("stage").classList.add("busy");
    $("kicker").textContent = "Looking at the picture …";
  }
  try {
    if (picture.size > limits.body) {
      const mb = (size) => (size / 1e6).toFixed(1);
      throw new Failed(413, `The file has ${mb(picture.size)} MB, but the service takes at most ${mb(limits.body)} MB. `
        + "Choose a smaller one, or raise --max-body of the service.");
    }
    const answer = await ask(`predict/${encodeURIComponent(model().name)}`, {
      method: "POST", body: picture, headers: { "Content-Type": "application/octet-stream" },
    });
    if (number === asked) show(answer);
  } catch (error) {
    if (error.status === 401) return askForToken(true);
    if (number === asked) showError(error.message, AGAIN.includes(error.status));
  } finally {
    if (number === asked) $("stage").classList.remove("busy");
  }
}

function percent(value) {
  if (value > 0 && value < 0.001) return "< 0.1 %";
  if (value < 1 && value > 0.999) return "> 99.9 %";
  return `${(100 * value).toFixed(1)} %`;
}

function show(answer) {
  shown = answer;
  $("error").hidden = $("again").hidden = true;
  const best = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1])[0][0];
  let title = answer.label, kicker = "Answer", note = "";
  if (answer.unknown) {
    title = "Unknown";
    note = `The network is too unsure for an answer. The likeliest class is \u2068${best}\u2069.`;
  } else if (answer.labels) {
    const more = answer.labels.length - MOST_NAMED;
    title = answer.labels.slice(0, MOST_NAMED).join(", ") || "No class";
    if (more > 0) note = `and ${more} more`;
    kicker = answer.labels.length > 1 ? "Answers" : "Answer";
  }
  // A screen reader speaks a new text; a live picture that stays the same must not be spoken again and again.
  set("kicker", kicker);
  set("verdict", title);
  set("note", note);
  $("note").hidden = !note;
  $("outlier").hidden = !answer.outlier;
  bars();
  describe();
}

function set(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function bars() {
  const entries = Object.entries(shown.probabilities).sort((a, b) => b[1] - a[1]);
  const chosen = new Set(shown.labels || (shown.label === null ? [] : [shown.label]));
  const count = all ? entries.length : Math.min(entries.length, FEW);
  const list = $("bars");
  while (list.children.length > count) list.lastChild.remove();
  entries.slice(0, count).forEach(([name, value], index) => {
    let item = list.children[index];
    if (!item) {
      item = document.createElement("li");
      for (const part of ["name", "value", "track"]) {
        const span = document.createElement("span");
        span.className = part;
        item.append(span);
      }
      const fill = document.createElement("span");
      fill.className = "fill";
      item.lastChild.append(fill);
      item.lastChild.setAttribute("aria-hidden", "true");
      list.append(item);
    }
    item.classList.toggle("chosen", chosen.has(name));
    item.children[0].textContent = name;
    item.children[1].textContent = percent(value);
    const fill = item.children[2].firstChild;
    requestAnimationFrame(() => { fill.style.width = `${100 * value}%`; });
  });
  const more = $("more");
  more.hidden = entries.length <= FEW;
  more.textContent = all ? `Show the ${FEW} likeliest` : `Show all ${entries.length} classes`;
  more.setAttribute("aria-expanded", String(all));
}

// What went wrong before the service was asked, so that the last answer still holds.
function say(message) {
  const sentence = message[0].toUpperCase() + message.slice(1);
  // A line must not end within the name of an option.
  const parts = (/[.!?]$/.test(sentence) ? sentence : `${sentence}.`).split(/(--[a-z-]+)/);
  $("error").replaceChildren(...parts.map((text, index) => {
    const part = document.createElement(index % 2 ? "code" : "span");
    part.textContent = text;
    return part;
  }));
  $("error").hidden = false;
}

function showError(message, again) {
  shown = null;
  say(message);
  $("again").hidden = !(again && last);
  $("no-preview").textContent = "This browser cannot show the file.";
  set("kicker", "Answer");
  set("verdict", "No answer");
  $("note").hidden = $("outlier").hidden = $("more").hidden = true;
  $("bars").replaceChildren();
}

function take(picture) {
  if (!picture) return;
  stopCamera();
  if (url) URL.revokeObjectURL(url);
  url = URL.createObjectURL(picture);
  $("empty").hidden = true;
  $("no-preview").hidden = true;
  $("no-preview").textContent = "This browser cannot show the file. The service may still read it.";
  const preview = $("preview");
  preview.alt = picture.name ? `The picture ${picture.name}` : "The picture that you pasted";
  preview.hidden = false;
  preview.src = url;
  classify(picture);
}

// The camera

async function startCamera() {
  // Browsers lend the camera only to pages of this machine or of https. A phone can still take a photograph.
  if (!navigator.mediaDevices || !window.isSecureContext) return $("shot").click();
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 1280 } }, audio: false,
    });
  } catch (error) {
    const why = {
      NotAllowedError: "The browser does not allow this page to use the camera. Allow it in the address bar, and try again.",
      NotFoundError: "This machine has no camera.",
      NotReadableError: "Another program uses the camera.",
    };
    return say(why[error.name] || `The camera cannot be used (${error.name}).`);
  }
  const video = $("video");
  video.srcObject = stream;
  $("preview").hidden = $("empty").hidden = $("no-preview").hidden = true;
  video.hidden = $("live").hidden = false;
  $("camera").textContent = "Stop the camera";
  await video.play();
  watchCamera(stream);
}

async function watchCamera(mine) {
  const canvas = document.createElement("canvas");
  const video = $("video");
  while (stream === mine) {
    const began = performance.now();
    if (!document.hidden && video.videoWidth) {
      const scale = Math.min(1, FRAME_SIDE / Math.max(video.videoWidth, video.videoHeight));
      canvas.width = Math.round(video.videoWidth * scale);
      canvas.height = Math.round(video.videoHeight * scale);
      canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
      const frame = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9));
      // The next frame is sent after this one was answered: a slow machine sees fewer frames, not later ones.
      if (frame && stream === mine) await classify(frame, true);
    }
    await new Promise((done) => setTimeout(done, Math.max(50, FRAME_MS - (performance.now() - began))));
  }
}

function stopCamera() {
  if (!stream) return;
  for (const track of stream.getTracks()) track.stop();
  stream = null;
  asked++;
  $("video").srcObject = null;
  $("video").hidden = $("live").hidden = true;
  if (!$("preview").src) $("empty").hidden = false;
  else $("preview").hidden = false;
  $("camera").textContent = "Use the camera";
}

// Events

$("choose").addEventListener("click", () => $("file").click());
$("camera").addEventListener("click", () => (stream ? stopCamera() : startCamera()));
for (const id of ["file", "shot"]) {
  $(id).addEventListener("change", (event) => {
    take(event.target.files[0]);
    event.target.value = "";
  });
}
$("preview").addEventListener("error", () => {
  if (!$("preview").hidden) { $("preview").hidden = true; $("no-preview").hidden = false; }
});
$("model").addEventListener("change", () => {
  describe();
  if (last) classify(last);
});
$("again").addEventListener("click", () => { if (last) classify(last); });
$("more").addEventListener("click", () => { all = !all; bars(); });
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = $("token").value.trim();
  $("token").value = "";
  // A browser cannot send other characters, and no token has them.
  if (!/^[!-~]+$/.test(token)) return askForToken(true);
  sessionStorage.setItem("token", token);
  start();
});

// The whole page takes drops: a browser would otherwise leave the page and show the file that misses the frame.
let depth = 0;
addEventListener("dragenter", (event) => { event.preventDefault(); depth++; $("stage").classList.add("over"); });
addEventListener("dragleave", () => { if (--depth <= 0) { depth = 0; $("stage").classList.remove("over"); } });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  $("stage").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) take(file);
  else say("That was not a file. Save the picture first, then drop the file.");
});
addEventListener("paste", (event) => {
  if (event.target === $("token")) return;
  const file = [...event.clipboardData.files][0];
  if (file) take(file);
  else say("There is no picture in the clipboard. Copy the picture itself, not its address.");
});

start();
