/**
 * A real browser, driven by Playwright: Chromium as the system has it, none is downloaded. Where there is none, tests that
 * need one are skipped.
 */
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type { AxeResults } from "axe-core";
import { type Browser, chromium, type Page } from "playwright-core";

const places = [
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
  "C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe",
];
/** The browser's program, or null where there is none. CHROMIUM names another. */
export const browserProgram = [process.env.CHROMIUM, ...places].find((place) => place && existsSync(place)) ?? null;

export function launchBrowser(): Promise<Browser> {
  // As root, in a container, Chromium has no sandbox; it opens nothing but our own page.
  const args = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
  // Otherwise it reads names of files as ASCII on a machine that names no language.
  const env = { ...process.env, LANG: "C.UTF-8" } as Record<string, string>;
  return chromium.launch({ executablePath: browserProgram!, args, env });
}

const axeFile = createRequire(import.meta.url).resolve("axe-core/axe.min.js");

/** Violations of accessibility rules by what the page shows now: rule, and elements. Best practices count, too. */
export async function axeViolations(page: Page): Promise<string[]> {
  // The page's own policy lets no script in; the debugger is not bound by it.
  if (!(await page.evaluate(() => "axe" in globalThis))) await page.evaluate(readFileSync(axeFile, "utf8"));
  const { violations } = await page.evaluate(() =>
    (globalThis as unknown as { axe: { run(): Promise<AxeResults> } }).axe.run(),
  );
  return violations.flatMap(({ id, nodes }) =>
    nodes.map(({ target, failureSummary }) => `${id}: ${target} ${failureSummary}`),
  );
}
