/** The page by keyboard alone, after a reload, when an answer is stopped, when something fails, and its command for a terminal. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import type { Page } from "playwright-core";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { envelopeOf, ServiceError } from "../../shared/errors.ts";
import { axeViolations, browserProgram, launchBrowser } from "../support/browser.ts";
import { PageDriver } from "../support/page-driver.ts";
import { sharedStack } from "../support/shared-stack.ts";

const stack = await sharedStack();
const browser = await launchBrowser();
const maths = "Janet has 3 boxes of pencils. Each box holds 12 pencils and costs $4. How much money does she";

/** Stops the next answer after `tokens` tokens, by a script in the page: a fast machine would finish before Playwright reacts. */
async function stopAfterTokens(page: Page, tokens: number): Promise<void> {
  await page.evaluate(`{
    const answer = document.getElementById("adapted-answer");
    let isAnew = false;
    const observer = new MutationObserver(() => {
      const shown = answer.querySelectorAll(".token").length;
      isAnew ||= shown < ${tokens};
      if (!isAnew || shown < ${tokens}) return;
      observer.disconnect();
      document.getElementById("go").click();
    });
    observer.observe(answer, { childList: true, subtree: true });
  }`);
}

describe.skipIf(!browserProgram)("the page", () => {
  // The two combinations of width and colours that page.test.ts leaves out.
  const looks = [
    { width: 390, colorScheme: "light" },
    { width: 1280, colorScheme: "dark" },
  ] as const;

  describe("opened anew", () => {
    let driver: PageDriver;
    let page: Page;
    let opened = 0;
    beforeEach(async () => {
      driver = await PageDriver.open(browser, stack, looks[opened++ % looks.length]);
      page = driver.page;
    });
    afterEach(async () => {
      await driver?.close();
      expect(driver?.problems).toEqual([]);
    });

    test.each(looks)("passes every rule of accessibility at $width px in $colorScheme, drawers open", async () => {
      await driver.sampling({});
      await page.locator("#code-drawer summary").click();
      await page.locator(".key summary").click();
      await page.locator("#adapted-answer .token").first().click();
      await driver.says("#token", /likeliest/);
      expect(await axeViolations(page)).toEqual([]);
      expect(driver.problems).toEqual([]);
    });

    test("is used by keyboard alone", async () => {
      const focused = () => driver.focused();
      // The first Tab stop skips the header, so few stops come before the prompt.
      await page.reload();
      await driver.ended();
      await page.keyboard.press("Tab");
      expect(await focused()).toBe("skip");
      await page.keyboard.press("Enter");
      expect(await focused()).toBe("main");
      await driver.tabTo("tab-write");
      await page.keyboard.press("ArrowLeft");
      await page.locator("#chat").waitFor();
      await page.keyboard.press("ArrowRight");
      await driver.tabTo("prompt");
      await page.keyboard.press("Control+a");
      await page.keyboard.type("Tom has 3 boxes");
      await page.keyboard.press("Control+Enter");
      await driver.ended();
      await driver.tabTo("token");
      await page.keyboard.press("End");
      const last = await driver.text("#token h3");
      await page.keyboard.press("ArrowLeft");
      await expect.poll(() => driver.text("#token h3")).not.toBe(last);
      // The next Tab stop is the base's answer.
      await page.keyboard.press("Tab");
      expect(await focused()).toBe("token");
      await driver.says("#token .token-sentence", /^Base/);
      await driver.says("#token", /likeliest/);
    });

    test("stays as it is if a tab is opened before the browser tells of the followed skip link", async () => {
      await page.evaluate(`new Promise((resolve) => {
        globalThis.isSamePage = true;
        addEventListener("hashchange", () => setTimeout(resolve));
        location.hash = "main";
        document.getElementById("tab-label").focus();
      })`);
      // A reload would have begun by now, and would end during this request.
      await page.evaluate("fetch('/healthz').then((response) => response.text())");
      expect(await page.evaluate("globalThis.isSamePage")).toBe(true);
    });

    test("its address brings tab, text and seed to another browser, and texts that were sent can be recalled", async () => {
      await driver.sampling({ seed: "11" });
      await driver.write(maths);
      const shown = await driver.answer("adapted");
      const address = page.url();
      const context = await browser.newContext();
      const other = await context.newPage();
      await other.goto(address);
      await other.locator("#status", { hasText: /have ended/ }).waitFor({ state: "attached" });
      expect(await other.inputValue("#prompt")).toBe(maths);
      expect(await other.inputValue("#sampling-seed")).toBe("11");
      expect(await other.locator("#adapted-answer .answer").textContent()).toBe(shown);
      await context.close();

      await page.click("#tab-label");
      await page.selectOption("#label-form .recent", { label: maths.slice(0, 60) });
      expect(await page.inputValue("#label-text")).toBe(maths);
      await page.click("#label-form button[type=submit]");
      await page.waitForSelector("#label-result li");
      await page.reload();
      await page.waitForSelector("#label", { state: "visible" });
      expect(await page.inputValue("#label-text")).toBe(maths);
    });

    test("its command for a terminal says what the page says", async () => {
      await page.locator("#code-drawer summary").click();
      const shown = await driver.answer("adapted");
      await driver.says("#code", /^curl/);
      const { stdout } = await promisify(execFile)("sh", ["-c", await driver.text("#code")]);
      expect((JSON.parse(stdout) as CompletionResponse).choices[0].text).toBe(shown);
    });

    test("keeps settings over a reload, forgets them when told to, and drops malformed ones", async () => {
      await driver.sampling({ temperature: "0.2", max_tokens: "5" });
      await page.selectOption("#answerer", "nearest");
      await driver.write(maths);
      expect(await driver.text("#adapted-facts")).toContain("5 tokens");
      await page.reload();
      await page.click("#tab-write");
      await driver.says("#weights", /\w+/);
      expect(await page.inputValue("#prompt")).toBe(maths);
      expect(await page.inputValue("#answerer")).toBe("nearest");
      expect(await page.inputValue("#sampling-temperature")).toBe("0.2");
      await page.locator(".key summary").click();
      await page.click("#reset");
      await page.click("#tab-write");
      await driver.ended();
      expect(await page.inputValue("#sampling-temperature")).toBe("0.7");
      expect(await page.inputValue("#prompt")).not.toBe(maths);

      const kept = { answerer: null, sampling: { max_tokens: 5 } };
      await page.evaluate(`localStorage.setItem("chameleon-settings", '${JSON.stringify(kept)}')`);
      await page.reload();
      await page.click("#tab-write");
      await driver.ended();
      expect(await page.inputValue("#answerer")).toBe("auto");
      expect(await page.inputValue("#sampling-max_tokens")).toBe("40");
      expect(await driver.text("#preview-failure")).toBe("");
    });

    test("a stopped answer keeps its text and its facts", async () => {
      await driver.sampling({ max_tokens: "400" });
      await page.fill("#prompt", maths);
      await stopAfterTokens(page, 6);
      await page.click("#go");
      await driver.says("#adapted-facts", /stopped by you/);
      await driver.ended();
      expect(await driver.text("#adapted-facts")).toMatch(/^\d+ tokens, .* a second; stopped by you$/);
      expect(await driver.text("#adapted-by")).toMatch(/\d% /);
      expect((await driver.answer("adapted")).length).toBeGreaterThan(5);
      expect(await driver.text("#adapted-failure")).toBe("");
    });
  });

  describe("tells in words", () => {
    const failure = "#preview-failure";
    let driver: PageDriver;
    let page: Page;
    beforeAll(async () => {
      driver = await PageDriver.open(browser, stack, looks[0]);
      page = driver.page;
      return async () => {
        await driver.close();
        expect(driver.problems).toEqual([]);
      };
    });

    test("that a key is wrong, and works once it is right", async () => {
      await page.locator(".key summary").click();
      await page.fill("#key", "sk-wrong");
      await page.keyboard.press("Enter");
      await driver.says("#page-failure", /API key is wrong/);
      await page.fill("#key", stack.key);
      await page.keyboard.press("Enter");
      await driver.says("#page-failure", /^$/);
      // The example runs again; until it ends, the button “Write” reads “Stop”.
      await driver.ended();
    });

    test("that the context is full, with both lengths", async () => {
      await page.fill("#prompt", "many words and more ".repeat(300));
      await page.click("#go");
      await driver.says(failure, /longer than the model can read.*\d+.*512/);
    });

    test("that a field cannot be read", async () => {
      await driver.sampling({ temperature: "9" });
      await page.click("#go");
      await driver.says(failure, /Temperature is “9”; it must be a number from 0 to 2/);
      await driver.sampling({ temperature: "" });
    });

    test("that no backend answers", async () => {
      const { error } = envelopeOf(new ServiceError("backend_unavailable", "No backend is reachable."));
      const answer = { status: 503, headers: { "retry-after": "2" }, json: { error } };
      await page.route("**/v1/completions", (route) => route.fulfill(answer));
      await page.fill("#prompt", "Anything");
      await page.click("#go");
      await driver.says(failure, /No backend answers.*Try again in 2 s.*No backend is reachable/);
      // No figure of the previous answer stays beside the error.
      for (const figures of ["#weights", "#evidence", "#adapted-by", "#adapted-facts", "#base-facts"])
        expect(await driver.text(figures), figures).toBe("");
      await page.unroute("**/v1/completions");
    });

    test("that the edge is gone, and keeps what is there", async () => {
      const shown = await driver.answer("adapted");
      await page.context().setOffline(true);
      await page.fill("#prompt", maths);
      await page.click("#go");
      await driver.says(failure, /The edge at http:\S+ does not answer/);
      expect(await driver.answer("adapted")).toBe(shown);
      expect(await page.textContent("body")).not.toContain("Failed to fetch");
    });
  });
});
