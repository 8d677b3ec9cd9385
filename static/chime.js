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
    button.addEventListener("click", () => this.#click());
    // Browsers let no page sound before it was touched, but for those of a kiosk.
    for (const type of ["click", "keydown"]) {
      addEventListener(type, ({ target }) => target !== button && this.#resume());
    }
    if (recall() === "on") this.#open();
    this.#show();
  }

  get isOn() {
    return this.#context !== null;
  }

  ring() {
    if (!this.isOn) return;
    if (this.#isMute) {
      // What is scheduled now would all sound at once when it runs again.
      if (navigator.userActivation?.hasBeenActive !== false) this.#resume();
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

  get #isMute() {
    return this.isOn && this.#context.state !== "running";
  }

  #click() {
    if (this.#isMute) return this.#resume();
    if (this.isOn) {
      this.#context.onstatechange = null;
      this.#context.close();
      this.#context = this.#resumption = null;
      this.#quietUntil = 0;
    } else {
      this.#open();
      this.#resume().then(() => this.ring());
    }
    // What has just been turned on is about to run.
    this.#show(false);
    remember(this.isOn ? "on" : "off");
  }

  #open() {
    this.#context = new AudioContext();
    this.#context.onstatechange = () => this.#show();
  }

  /** Who turned it on should know when nothing would be heard. */
  #show(isMute = this.#isMute) {
    this.#button.setAttribute("aria-pressed", this.isOn);
    this.#button.classList.toggle("mute", isMute);
  }

  /** Asked for once: it may be answered never. */
  async #resume() {
    if (!this.#isMute) return;
    const end = () => (this.#resumption = null);
    this.#resumption ??= this.#context.resume().then(end, end);
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
