// Two notes for a new order, once somebody has asked for them.

/** Frequency in Hz, and when it begins in s. */
const NOTES = [
  [784, 0],
  [1047, 0.16],
];
/** How long, in s, a note rings, and how loud it begins. */
const RING = 0.7;
const LOUDNESS = 0.25;

export class Chime {
  #button;
  #context = null;

  /** `button` turns it on and off; browsers want a click before they let a page sound. */
  constructor(button) {
    this.#button = button;
    button.addEventListener("click", () => {
      const isOn = !this.isOn;
      button.setAttribute("aria-pressed", isOn);
      if (isOn) this.ring();
    });
  }

  get isOn() {
    return this.#button.getAttribute("aria-pressed") === "true";
  }

  ring() {
    if (!this.isOn) return;
    this.#context ??= new AudioContext();
    const { currentTime, destination } = this.#context;
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
}
