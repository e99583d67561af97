/** Drives the page in a browser. */
import type { Browser, Page } from "playwright-core";
import { expect } from "vitest";
import type { StackPlace } from "./stack.ts";

export interface Look {
  width: number;
  colorScheme: "light" | "dark";
}

export class PageDriver {
  readonly page: Page;
  readonly #problems: string[] = [];

  private constructor(page: Page, origin: string) {
    this.page = page;
    page.on("pageerror", (error) => this.#problems.push(`error: ${error.message}`));
    page.on("console", (message) => {
      // The browser logs refused requests, whose errors the page shows.
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) {
        this.#problems.push(`console: ${message.text()}`);
      }
    });
    page.on("request", (request) => {
      if (!/^(data:|blob:)/.test(request.url()) && new URL(request.url()).origin !== origin) {
        this.#problems.push(`request to ${request.url()}`);
      }
    });
  }

  /** Opens the page in a new profile, goes to "Write", and waits for the example there. */
  static async open(browser: Browser, { edge }: StackPlace, { width, colorScheme }: Look): Promise<PageDriver> {
    const context = await browser.newContext({
      viewport: { width, height: 900 },
      colorScheme,
      reducedMotion: "reduce",
    });
    const driver = new PageDriver(await context.newPage(), edge);
    await driver.page.goto(`${edge}/`);
    await driver.page.click("#tab-write");
    await driver.ended();
    return driver;
  }

  get problems(): readonly string[] {
    return this.#problems;
  }

  async text(selector: string): Promise<string> {
    return (await this.page.locator(selector).textContent()) ?? "";
  }

  answer(side: "base" | "adapted"): Promise<string> {
    return this.page
      .locator(`#${side}-answer .answer`)
      .first()
      .evaluate((element) => element.textContent ?? "");
  }

  async ended(): Promise<void> {
    await this.says("#status", /have ended/);
  }

  async write(prompt: string): Promise<void> {
    await this.page.fill("#prompt", prompt);
    await this.page.click("#go");
    await this.ended();
  }

  async says(selector: string, pattern: RegExp, timeout = 10_000): Promise<void> {
    await this.page.locator(selector).filter({ hasText: pattern }).waitFor({ state: "attached", timeout });
  }

  focused(): Promise<string> {
    return this.page.evaluate<string>("document.activeElement.id || document.activeElement.className");
  }

  /** Presses Tab until the element with this id or class is focused. */
  async tabTo(wanted: string, mostPresses = 60): Promise<void> {
    for (let i = 0; i < mostPresses && (await this.focused()) !== wanted; i++) await this.page.keyboard.press("Tab");
    expect(await this.focused()).toBe(wanted);
  }

  async sampling(fields: Record<string, string>): Promise<void> {
    const drawer = this.page.locator("#sampling-drawer");
    if ((await drawer.getAttribute("open")) === null) await drawer.locator("summary").click();
    for (const [name, value] of Object.entries(fields)) await this.page.fill(`#sampling-${name}`, value);
  }

  async close(): Promise<void> {
    await this.page.context().close();
  }
}
