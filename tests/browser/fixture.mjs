// The common fixture: a browser, and a host with some orders.

import { after, before, test } from "node:test";

import { launch, withPages } from "./browser.mjs";
import { Host, makeOrders, newState, removeState } from "./host.mjs";

/** Longer than the timeout in browser.mjs. */
const timeout = 240_000;

export class Fixture {
  host;
  browser;
  stateDir;

  /** Registers hooks that start a host with at least `stock` orders, and makes another one `every` interval. */
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

  /** Defines a test that runs `use(page, problems, defer)`; see `withPage` in browser.mjs. */
  page(name, options, use) {
    this.pages(name, 1, options, ([page], problems, defer) => use(page, problems, defer));
  }

  /**
   * Defines a test with several pages. If it fails, this prints the host's log. `skip` is the reason to skip
   * it, or false.
   */
  pages(name, count, { skip = false, ...options }, use) {
    test(name, { timeout, skip }, async () => {
      try {
        await withPages(this.browser, name.replaceAll(/\W+/g, "-"), count, options, use);
      } catch (error) {
        console.error(`host log:\n${this.host.log}`);
        throw error;
      }
    });
  }
}
