/** The system's Chromium, driven by Playwright. Tests that need a browser are skipped if none is installed. */
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type { AxeResults } from "axe-core";
import { type Browser, chromium, type Page } from "playwright-core";
import { atEnd } from "./at-end.ts";

const places = [
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
  "C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe",
];
/** CHROMIUM overrides the path. null if no browser is installed. */
export const browserProgram = [process.env.CHROMIUM, ...places].find((place) => place && existsSync(place)) ?? null;

/** Skips the file's tests if no browser is installed; the result is then undefined. */
export async function launchBrowser(): Promise<Browser> {
  if (!browserProgram) return undefined as never;
  // Chromium's sandbox does not start for root, as in a container.
  const args = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
  // Without a UTF-8 locale Chromium reads file names as ASCII.
  const env = { ...process.env, LANG: "C.UTF-8" } as Record<string, string>;
  const browser = await chromium.launch({ executablePath: browserProgram, args, env });
  atEnd(() => browser.close());
  return browser;
}

const axeFile = createRequire(import.meta.url).resolve("axe-core/axe.min.js");

/** Violations of accessibility rules on the page, best practices included. */
export async function axeViolations(page: Page): Promise<string[]> {
  // The page's content security policy forbids injected scripts, but not code that the debugger evaluates.
  if (!(await page.evaluate(() => "axe" in globalThis))) await page.evaluate(readFileSync(axeFile, "utf8"));
  const { violations } = await page.evaluate(() =>
    (globalThis as unknown as { axe: { run(): Promise<AxeResults> } }).axe.run(),
  );
  return violations.flatMap(({ id, nodes }) =>
    nodes.map(({ target, failureSummary }) => `${id}: ${target} ${failureSummary}`),
  );
}
