/** “Your text” in a browser: a folder is dropped, its gain is shown, and each token shows the passage it came from. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { describe, expect, test } from "vitest";
import { stretchesOf } from "../../edge/page/documents.ts";
import { surpriseBeside } from "../../edge/page/words.ts";
import { limits } from "../../shared/contracts/limits.ts";
import type { Adapter, CompletionResponse } from "../../shared/contracts/responses.ts";
import type { ErrorEnvelope } from "../../shared/errors.ts";
import { axeViolations, browserProgram, launchBrowser } from "../support/browser.ts";
import { PageDriver } from "../support/page-driver.ts";
import { sharedStack } from "../support/shared-stack.ts";
import { seededRandom } from "../support/steps.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const stack = await sharedStack("memory-page");
const browser = await launchBrowser();
/** Random Spanish words, which the served model predicts badly. */
const words =
  "el mar la noche una casa del río que viene con las manos vacías para nunca volver y luz entre los árboles sobre tierra fría donde duerme niño bajo cielo gris".split(
    " ",
  );
const random = seededRandom(35);
const prose = (length: number) => Array.from({ length }, () => words[Math.floor(random() * words.length)]).join(" ");

/** Drops the file or folder at `path` onto the page, as a file manager does. */
async function drop(page: Page, path: string): Promise<void> {
  const session = await page.context().newCDPSession(page);
  const at = { x: 200, y: 400 };
  const data = { items: [], files: [path], dragOperationsMask: 1 };
  for (const type of ["dragEnter", "dragOver", "drop"] as const) {
    await session.send("Input.dispatchDragEvent", { type, ...at, data });
  }
  await session.detach();
}

const folder = join(temporaryFolder(), "Poemas del río");
const documents: Record<string, string> = {};
await mkdir(join(folder, "más"), { recursive: true });
await mkdir(join(folder, ".git"));
for (const name of ["dos.md", "más/tres.md", "uno.md", "zeta.md"]) {
  documents[`Poemas del río/${name}`] = `# ${name}\n\n${prose(240)}\n`;
  await writeFile(join(folder, name), documents[`Poemas del río/${name}`]);
}
await writeFile(join(folder, ".git/index.md"), "not a document");
await writeFile(join(folder, "libro.pdf"), "%PDF-1.7");
await writeFile(join(folder, "latín.txt"), Uint8Array.of(0x63, 0xe9));

describe.skipIf(!browserProgram)("your text", () => {
  async function openTab(look: { width: number; colorScheme: "light" | "dark" }): Promise<PageDriver> {
    const driver = await PageDriver.open(browser, stack, look);
    const { page } = driver;
    await page.locator(".key summary").click();
    await page.fill("#key", stack.key);
    await page.keyboard.press("Enter");
    await page.locator(".key summary").click();
    await driver.ended();
    return driver;
  }

  test.each([
    { width: 1280, colorScheme: "light" },
    { width: 390, colorScheme: "dark" },
  ] as const)("a dropped folder's gain and passages, at $width px, $colorScheme", async (look) => {
    const driver = await openTab(look);
    const { page } = driver;
    await drop(page, folder);
    const shown = () => page.locator("#documents li span").allTextContents();
    await expect.poll(shown, { timeout: 30_000 }).toEqual(Object.keys(documents));
    expect(await page.inputValue("#text-name")).toBe("poemas-del-rio");
    expect(await driver.text("#text-failure")).toMatch(
      /libro\.pdf is PDF; convert it: pdftotext.*latín\.txt is not text in UTF-8/,
    );
    const [held] = Object.keys(documents).slice(-1);
    expect(await driver.text("#documents-total")).toContain(`“${held}”`);
    expect(await axeViolations(page)).toEqual([]);

    // The page adds the held-back document last. Its request waits until the test has compared the gain without that document.
    const compared = Promise.withResolvers<void>();
    await page.route("**/v1/adapters/*/documents", (route) => compared.promise.then(() => route.continue()));
    await page.click("#text-create");
    await driver.says("#text-status", /poemas-del-rio is ready after .* s: 3 documents/);
    await driver.says("#text-gain", /less surprised/);
    // A thousand characters of Spanish exceed the context, so the page scores 500 at a time.
    const { choices } = await stack.ask<CompletionResponse>("/v1/completions", {
      ...{ prompt: stretchesOf(documents[held], 500, 6), max_tokens: 0, echo: true, logprobs: 0 },
      chameleon: { adapter: "poemas-del-rio", evidence_tokens: 64, compare: true },
    });
    const scored = choices.flatMap(({ chameleon }) => chameleon!.compare!.tokens.slice(63));
    const gain = scored.reduce((sum, one) => sum + one.logprob - one.base_logprob, 0) / scored.length;
    expect(await driver.text("#text-gain")).toContain(`${surpriseBeside(gain, "without it")} by “${held}”`);
    compared.resolve();
    await driver.says('[data-adapter="poemas-del-rio"]', /4 documents, .* tokens; ready/);
    const { documents: kept } = await stack.ask<Adapter>("/v1/adapters/poemas-del-rio");
    expect(kept!.map(({ name }) => name).toSorted()).toEqual(Object.keys(documents).toSorted());
    await page.getByRole("button", { name: "Write with it: poemas-del-rio" }).click();
    await driver.ended();
    await driver.write(documents[held].slice(0, 300));

    // By pointer and then by keyboard, a token that came from the text shows its passage.
    const own = page.locator('#adapted-answer [data-share]:not([data-share="none"])');
    await own.first().hover();
    const quoted = async () => {
      const name = await page.locator("#token li b").first().textContent();
      const token = (await page.locator("#token mark").first().textContent())!;
      const quote = (await page.locator("#token blockquote").first().textContent())!;
      expect(documents[name!]).toContain(quote.slice(1, -1));
      return token;
    };
    expect(await quoted()).toBe(await own.first().textContent());
    expect(await axeViolations(page)).toEqual([]);
    await own.first().click();
    // The pointer is moved away, so that scrolling brings no token under it.
    await page.mouse.move(0, 0);
    await page.keyboard.press("End");
    await page.keyboard.press("ArrowLeft");
    const focused = page.locator("#adapted-answer .token:focus");
    expect(await driver.text("#token h3")).toContain((await focused.textContent())!.trim());
    expect(await page.evaluate("document.documentElement.scrollWidth")).toBe(look.width);

    await page.getByRole("button", { name: "Chat with it: poemas-del-rio" }).click();
    await page.locator("#chat").waitFor();
    expect(await page.inputValue("#chat-answerer")).toBe("poemas-del-rio");
    await page.check("#chat-look-up");
    await page.fill("#chat-input", prose(30));
    await page.keyboard.press("Enter");
    await driver.says("#chat-status", /complete/);
    await driver.says("#chat-legend", /documents gave/);
    await driver.says("#chat-passage", /read this before it answered:.*\.\S+ \(poemas-del-rio\): bytes/);
    await page.locator("#chat-log .token").first().focus();
    await driver.says("#chat-passage", /documents/);
    expect(await axeViolations(page)).toEqual([]);

    const remove = page.getByRole("button", { name: "Delete: poemas-del-rio" });
    page.once("dialog", (dialog) => void dialog.dismiss());
    await remove.click();
    expect(await page.locator('#answerer option[value="poemas-del-rio"]').count()).toBe(1);
    page.once("dialog", (dialog) => void dialog.accept());
    await remove.click();
    await driver.says("#list-status", /is deleted/);
    expect(await page.locator('#answerer option[value="poemas-del-rio"]').count()).toBe(0);
    expect(driver.problems).toEqual([]);
    await driver.close();
  });

  test("files of one name are all taken, each under a name of its own", async () => {
    const driver = await openTab({ width: 1280, colorScheme: "light" });
    const { page } = driver;
    const files = [1, 2, 3].map(() => ({
      ...{ name: "notas.md", mimeType: "text/markdown" },
      buffer: Buffer.from(prose(40)),
    }));
    await page.setInputFiles("#files", files.slice(0, 2));
    await driver.says("#documents-total", /2 documents/);
    // The first file once more adds nothing, another file of its name does.
    await page.setInputFiles("#files", [files[0], files[2]]);
    await driver.says("#documents-total", /3 documents/);
    await page.fill("#text-name", "notas");
    await page.click("#text-create");
    await driver.says("#text-status", /notas is ready after .* s: 3 documents/);
    const { documents: kept } = await stack.ask<Adapter>("/v1/adapters/notas");
    expect(kept!.map(({ name }) => name)).toEqual(["notas.md", "notas (2).md", "notas (3).md"]);
    await stack.ask("/v1/adapters/notas", undefined, { method: "DELETE" });
    await driver.close();
  });

  test("pasted text is enough, by keyboard alone, and the whole of it is uploaded", async () => {
    const driver = await openTab({ width: 1280, colorScheme: "dark" });
    const { page } = driver;
    const text = prose(400);
    await page.focus("#text-input");
    await page.keyboard.insertText(text);
    await driver.says("#documents-total", /pasted text, the end/);
    await driver.tabTo("text-name", 12);
    await page.keyboard.press("Control+a");
    await page.keyboard.type("verso");
    await driver.tabTo("text-create", 12);
    await page.keyboard.press("Enter");
    await driver.says("#text-status", /verso is ready/);
    await driver.says('[data-adapter="verso"]', /2 documents, .* tokens; ready/);
    const { documents: kept } = await stack.ask<Adapter>("/v1/adapters/verso");
    expect(kept!.map(({ name }) => name)).toEqual(["pasted text", "pasted text, the end"]);
    expect(kept!.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(new TextEncoder().encode(text).length);
    await page.getByRole("button", { name: "Write with it: verso" }).click();
    await driver.ended();
    await driver.write(text.slice(0, 300));
    expect(await page.locator('#adapted-answer [data-share="most"]').count()).toBeGreaterThan(0);
    await stack.ask("/v1/adapters/verso", undefined, { method: "DELETE" });
    await driver.close();
  });

  test("a job tells how far it is, and cancelling it leaves nothing", async () => {
    const driver = await openTab({ width: 1280, colorScheme: "light" });
    const { page } = driver;
    // The job always looks unfinished, however fast the machine is.
    await page.route("**/v1/adapters/largo", async (route) => {
      if (route.request().method() !== "GET") return route.continue();
      const response = await route.fetch();
      const adapter = (await response.json()) as Adapter;
      const memory = { ...adapter.memory, status: "building", built_tokens: 1 };
      await route.fulfill({ response, json: { ...adapter, memory } });
    });
    await page.fill("#text-input", prose(limits.memoryTokensAtOnce));
    await page.fill("#text-name", "largo");
    await page.click("#text-create");
    await driver.says("#text-status", /% of .* tokens/);
    await page.click("#text-cancel");
    await driver.says("#text-status", /Cancelled/);
    const { error } = await stack.ask<ErrorEnvelope>("/v1/adapters/largo", undefined, { status: 404 });
    expect(error.code).toBe("adapter_not_found");
    // The form keeps what was typed.
    expect(await page.inputValue("#text-name")).toBe("largo");
    await driver.close();
  });
});
