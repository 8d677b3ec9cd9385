// What most tests stand on: a host with some orders, none coming unless it is
// asked for, and a browser.

import { after, before, test } from "node:test";

import { launch, withPages } from "./browser.mjs";
import { Host, makeOrders, newState, removeState } from "./host.mjs";

/** Longer than browser.mjs waits for a test. */
const timeout = 240_000;

export class Setting {
  host;
  browser;
  stateDir;

  /** Sets up before the tests of a file: at least `stock` orders, more coming `every`. */
  constructor({ stock = 0, every = "1h" } = {}) {
    before(async () => {
      this.stateDir = await newState();
      if (stock > 0) await makeOrders(this.stateDir, stock);
      this.host = await Host.start({ stateDir: this.stateDir, every });
      this.browser = await launch();
    });
    after(async () => {
      await this.browser?.close();
      await this.host?.stop();
      await removeState(this.stateDir);
    });
  }

  /** A test with a page of its own: `use(page, problems, later)`, see browser.mjs. */
  page(name, options, use) {
    this.pages(name, 1, options, ([page], problems, later) => use(page, problems, later));
  }

  /** A test with pages of its own; the host's log goes with a failure. */
  pages(name, count, options, use) {
    test(name, { timeout }, async () => {
      try {
        await withPages(this.browser, name.replaceAll(/\W+/g, "-"), count, options, use);
      } catch (error) {
        console.error(`the host said:\n${this.host.log}`);
        throw error;
      }
    });
  }
}
