// Plays two notes for a new order, if the user has turned that on.

/** Frequencies in Hz, and starts in seconds. */
const NOTES = [
  [784, 0],
  [1047, 0.16],
];
const NOTE_SECONDS = 0.7;
const VOLUME = 0.25;
const MIN_INTERVAL_SECONDS = 1;
const STORAGE_KEY = "chime";

export class Chime {
  #button;
  #context = null;
  #resuming = null;
  #quietUntil = 0;

  constructor(button) {
    this.#button = button;
    button.addEventListener("click", () => this.#toggle());
    // Browsers let a page play sound only after a user gesture, except in kiosk mode.
    for (const type of ["click", "keydown"]) {
      addEventListener(type, ({ target }) => target !== button && this.#resume());
    }
    if (load() === "on") this.#open();
    this.#render();
  }

  get isOn() {
    return this.#context !== null;
  }

  ring() {
    if (!this.isOn) return;
    if (this.#isSuspended) {
      // Notes that are scheduled now would all play at once on resume.
      if (navigator.userActivation?.hasBeenActive !== false) this.#resume();
      return;
    }
    const { currentTime, destination } = this.#context;
    if (currentTime < this.#quietUntil) return;
    this.#quietUntil = currentTime + MIN_INTERVAL_SECONDS;
    for (const [frequency, offset] of NOTES) {
      const start = currentTime + offset;
      const gain = new GainNode(this.#context, { gain: 0 });
      gain.gain.setValueAtTime(VOLUME, start);
      gain.gain.exponentialRampToValueAtTime(0.001, start + NOTE_SECONDS);
      const note = new OscillatorNode(this.#context, { frequency, type: "triangle" });
      note.connect(gain).connect(destination);
      note.start(start);
      note.stop(start + NOTE_SECONDS);
    }
  }

  get #isSuspended() {
    return this.isOn && this.#context.state !== "running";
  }

  #toggle() {
    if (this.#isSuspended) return this.#resume();
    if (this.isOn) {
      this.#context.onstatechange = null;
      this.#context.close();
      this.#context = this.#resuming = null;
      this.#quietUntil = 0;
    } else {
      this.#open();
      this.#resume().then(() => this.ring());
    }
    // A context that was just opened is about to run.
    this.#render(false);
    save(this.isOn ? "on" : "off");
  }

  #open() {
    this.#context = new AudioContext();
    this.#context.onstatechange = () => this.#render();
  }

  #render(isMute = this.#isSuspended) {
    this.#button.setAttribute("aria-pressed", this.isOn);
    this.#button.classList.toggle("mute", isMute);
  }

  /** Requests it only once, since the browser may never respond. */
  async #resume() {
    if (!this.#isSuspended) return;
    const end = () => (this.#resuming = null);
    this.#resuming ??= this.#context.resume().then(end, end);
    return this.#resuming;
  }
}

// Browsers can deny access to storage.

function load() {
  try {
    return localStorage.getItem(STORAGE_KEY);
  } catch {
    return null;
  }
}

function save(setting) {
  try {
    localStorage.setItem(STORAGE_KEY, setting);
  } catch {}
}
