// Labels what a camera sees, the latest frame only, and smooths the answers a little over time.

// After this time, an earlier frame counts less than half of what it did.
const SMOOTHING_SECONDS = 0.4;

const REASONS = {
  NotAllowedError: "The browser may not use the camera. Allow it in the settings of this page, and start it again.",
  NotFoundError: "No camera was found on this device.",
  NotReadableError: "The camera cannot be opened. Another program may use it: close that program, and start it again.",
};

export class Camera {
  #video;
  #calls;
  #stream = null;
  #facing = "environment";
  // Each start has a number, so that a frame of an earlier one is not shown.
  #turn = 0;
  several = false;

  // video: a <video> element. calls: {label(frame) -> {probabilities, score, seconds}, show(outputs, seconds),
  // changed(state, reason)}, with the state "on" or "off".
  constructor(video, calls) {
    this.#video = video;
    this.#calls = calls;
  }

  get on() {
    return this.#stream !== null;
  }

  async start() {
    const turn = ++this.#turn;
    let stream;
    try {
      if (!navigator.mediaDevices) throw new Error("The camera needs a page at https:// or localhost.");
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: this.#facing }, audio: false });
      if (turn !== this.#turn) return stopTracks(stream);
      this.#video.srcObject = stream;
      await this.#video.play();
      const devices = await navigator.mediaDevices.enumerateDevices();
      this.several = devices.filter(({ kind }) => kind === "videoinput").length > 1;
    } catch (error) {
      if (stream) stopTracks(stream);
      if (turn === this.#turn) this.#calls.changed("off", REASONS[error.name] ?? error.message);
      return;
    }
    if (turn !== this.#turn) return stopTracks(stream);
    this.#stream = stream;
    const [track] = stream.getVideoTracks();
    this.#video.classList.toggle("mirrored", track.getSettings().facingMode === "user");
    track.addEventListener("ended", () => this.on && this.stop("The camera was disconnected."));
    this.#calls.changed("on");
    this.#run(turn);
  }

  stop(reason) {
    this.#turn++;
    if (!this.#stream) return;
    stopTracks(this.#stream);
    this.#stream = this.#video.srcObject = null;
    this.#calls.changed("off", reason);
  }

  async flip() {
    this.#facing = this.#facing === "user" ? "environment" : "user";
    this.stop();
    await this.start();
  }

  // Take a frame only when the one before is labeled, so that frames never queue.
  async #run(turn) {
    let smooth = null;
    let last = performance.now();
    while (turn === this.#turn) {
      await new Promise(requestAnimationFrame);
      if (turn !== this.#turn || !this.#video.videoWidth) continue;
      let outputs;
      try {
        outputs = await this.#calls.label(await createImageBitmap(this.#video));
      } catch (error) {
        if (turn === this.#turn) this.stop(error.message);
        return;
      }
      if (turn !== this.#turn) return;
      const now = performance.now();
      smooth = mix(smooth, outputs, Math.exp(-(now - last) / 1000 / SMOOTHING_SECONDS));
      last = now;
      this.#calls.show(smooth, outputs.seconds);
    }
  }
}

function stopTracks(stream) {
  for (const track of stream.getTracks()) track.stop();
}

// Return outputs that are the share `old` of the earlier ones and the rest of the new ones.
function mix(earlier, now, old) {
  if (!earlier) return now;
  const between = (before, after) => old * before + (1 - old) * after;
  return {
    probabilities: now.probabilities.map((value, i) => between(earlier.probabilities[i], value)),
    score: now.score === null ? null : between(earlier.score, now.score),
  };
}
