// Two notes for a new order, once somebody has asked for them.

/** Frequency in Hz, and when it begins in s. */
const NOTES = [
  [784, 0],
  [1047, 0.16],
];
/** How long, in s, a note rings, and how loud it begins. */
const RING = 0.7;
const LOUDNESS = 0.25;
/** It rings once in so many s, however many orders come. */
const PAUSE = 1;
/** Where a browser keeps whether it is on. */
const KEY = "chime";

export class Chime {
  #button;
  #context = null;
  #resumption = null;
  #quietUntil = 0;

  /** `button` turns it on and off, and is found as it was left. */
  constructor(button) {
    this.#button = button;
    this.#show(recall() === "on");
    button.addEventListener("click", () => this.#turn(!this.isOn));
  }

  get isOn() {
    return this.#button.getAttribute("aria-pressed") === "true";
  }

  ring() {
    // Browsers let no page sound before it was clicked, and grumble when it tries.
    if (!this.isOn || navigator.userActivation?.hasBeenActive === false) return;
    this.#context ??= new AudioContext();
    if (this.#context.state !== "running") {
      // What is scheduled now would all sound at once when it runs again.
      this.#resume();
      return;
    }
    const { currentTime, destination } = this.#context;
    if (currentTime < this.#quietUntil) return;
    this.#quietUntil = currentTime + PAUSE;
    for (const [frequency, offset] of NOTES) {
      const start = currentTime + offset;
      const gain = new GainNode(this.#context, { gain: 0 });
      gain.gain.setValueAtTime(LOUDNESS, start);
      gain.gain.exponentialRampToValueAtTime(0.001, start + RING);
      const note = new OscillatorNode(this.#context, { frequency, type: "triangle" });
      note.connect(gain).connect(destination);
      note.start(start);
      note.stop(start + RING);
    }
  }

  #turn(isOn) {
    this.#show(isOn);
    remember(isOn ? "on" : "off");
    if (isOn) {
      this.#context = new AudioContext();
      this.#resume().then(() => this.ring());
    } else {
      this.#context?.close();
      this.#context = this.#resumption = null;
      this.#quietUntil = 0;
    }
  }

  #show(isOn) {
    this.#button.setAttribute("aria-pressed", isOn);
  }

  /** Asked for once: it may be answered never. */
  #resume() {
    this.#resumption ??= this.#context.resume().then(
      () => (this.#resumption = null),
      () => (this.#resumption = null),
    );
    return this.#resumption;
  }
}

// A browser may let pages keep nothing.

function recall() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function remember(text) {
  try {
    localStorage.setItem(KEY, text);
  } catch {
    // It is as before after the next reload.
  }
}
