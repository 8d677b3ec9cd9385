// The chime: when it rings, and that it does not when nobody can hear it.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Chime } from "../../../static/chime.js";
import { settled } from "./support.mjs";

/** What the browser gives, as far as the chime looks. */
class Context {
  state = "suspended";
  currentTime = 0;
  resumed = 0;
  started = 0;
  constructor() {
    contexts.push(this);
  }
  async resume() {
    this.resumed += 1;
    if (!isAllowed) return new Promise(() => {});
    this.state = "running";
  }
  close() {
    this.state = "closed";
  }
}

class Node {
  constructor(context) {
    this.context = context;
    this.gain = { setValueAtTime() {}, exponentialRampToValueAtTime() {} };
  }
  connect(other) {
    return other;
  }
  start() {
    this.context.started += 1;
  }
  stop() {}
}

let contexts;
let isAllowed;
let kept;
let button;

/** A page that is loaded. */
function load() {
  button = Object.assign(new EventTarget(), {
    pressed: "false",
    getAttribute: () => button.pressed,
    setAttribute: (_, value) => (button.pressed = String(value)),
  });
  return new Chime(button);
}

async function click() {
  button.dispatchEvent(new Event("click"));
  await settled();
}

const before = Object.getOwnPropertyDescriptors(globalThis);

function set(name, value) {
  Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
}

beforeEach(() => {
  contexts = [];
  isAllowed = true;
  kept = new Map();
  set("AudioContext", Context);
  set("GainNode", Node);
  set("OscillatorNode", Node);
  set("navigator", { userActivation: { hasBeenActive: true } });
  set("localStorage", { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) });
});

afterEach(() => {
  for (const name of ["AudioContext", "GainNode", "OscillatorNode", "navigator", "localStorage"]) {
    delete globalThis[name];
    if (before[name]) Object.defineProperty(globalThis, name, before[name]);
  }
});

test("it rings when it is turned on, and then for orders", async () => {
  const chime = load();
  chime.ring();
  assert.equal(contexts.length, 0, "off until asked");
  await click();
  const [context] = contexts;
  assert.equal(context.started, 2);
  context.currentTime = 2;
  chime.ring();
  assert.equal(context.started, 4);
  await click();
  assert.equal(context.state, "closed");
  chime.ring();
  assert.equal(context.started, 4);
  await click();
  assert.equal(contexts[1].started, 2);
});

test("it rings once in a second", async () => {
  const chime = load();
  await click();
  const [context] = contexts;
  for (let ms = 0; ms < 3_000; ms += 20) {
    context.currentTime = ms / 1000;
    chime.ring();
  }
  assert.equal(context.started, 6);
});

test("nothing is kept for later while it cannot be heard", async () => {
  const chime = load();
  await click();
  const [context] = contexts;
  const { resumed, started } = context;
  context.state = "suspended";
  isAllowed = false;
  for (let orders = 0; orders < 100; orders += 1) {
    context.currentTime += 2;
    chime.ring();
  }
  await settled();
  assert.equal(context.started, started);
  assert.equal(context.resumed, resumed + 1);
});

test("it is found as it was left, and waits for a click to sound", async () => {
  load();
  await click();
  navigator.userActivation.hasBeenActive = false;
  const chime = load();
  assert.ok(chime.isOn);
  chime.ring();
  assert.equal(contexts.length, 1, "only the one from before");
  navigator.userActivation.hasBeenActive = true;
  chime.ring();
  await settled();
  chime.ring();
  assert.equal(contexts[1].started, 2);
  await click();
  assert.ok(!load().isOn);
});

test("where nothing can be kept it works as well", async () => {
  Object.defineProperty(globalThis, "localStorage", {
    configurable: true,
    get() {
      throw new Error("denied");
    },
  });
  const chime = load();
  assert.ok(!chime.isOn);
  await click();
  assert.ok(chime.isOn);
  assert.equal(contexts[0].started, 2);
});
