/** Each feature of the page in a browser, on the running stack, wide and light, then narrow and dark. */
import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { domainOf } from "../../edge/page/domains.ts";
import { percent, surpriseBeside, surpriseChange } from "../../edge/page/words.ts";
import type { ClassifyResponse } from "../../shared/contracts/classify-response.ts";
import type { Adapter, CentroidList, CompletionResponse } from "../../shared/contracts/responses.ts";
import { axeViolations, browserProgram, launchBrowser } from "../support/browser.ts";
import { PageDriver } from "../support/page-driver.ts";
import { sharedStack } from "../support/shared-stack.ts";

/** The page's initial request settings; see edge/page/request.ts. */
const sampling = { max_tokens: 40, temperature: 0.7, seed: 4, top_p: 0.9 };
const maths = "Janet has 3 boxes of pencils. Each box holds 12 pencils and costs $4. How much money does she";

const looks = [
  { width: 1280, colorScheme: "light" },
  { width: 390, colorScheme: "dark" },
] as const;

const stack = await sharedStack();
const browser = await launchBrowser();
const complete = (body: object) => stack.ask<CompletionResponse>("/v1/completions", body);

describe.skipIf(!browserProgram)("the page", () => {
  describe.each(looks)("at $width px, $colorScheme", (look) => {
    let driver: PageDriver;
    let page: Page;
    beforeAll(async () => {
      driver = await PageDriver.open(browser, stack, look);
      page = driver.page;
    });
    afterAll(() => driver?.close());

    test("shows an adapted answer beside the base's as soon as its tab is opened, with the API's figures", async () => {
      const prompt = await page.inputValue("#prompt");
      const adapted = await complete({ prompt, ...sampling, chameleon: {} });
      const base = await complete({ prompt, ...sampling, model: "gpt2" });
      expect(await driver.answer("adapted")).toBe(adapted.choices[0].text);
      expect(await driver.answer("base")).toBe(base.choices[0].text);

      const { experts, evidence } = adapted.choices[0].chameleon!;
      for (const { id, weight } of experts!.filter((one) => one.weight > 0)) {
        expect(await driver.text(`#weights [data-expert="${id}"]`)).toContain(percent(weight));
      }
      expect(await driver.text("#evidence")).toContain(surpriseBeside(evidence!.nats));
      expect(await driver.text("#adapted-facts")).toContain("40 tokens");
      expect(await page.locator("#adapted-answer [data-step]").count()).toBeGreaterThan(20);
      expect(await driver.text("#legend")).toMatch(/5× likelier or more/);
      expect(await page.evaluate("document.documentElement.scrollWidth")).toBe(look.width);
      expect(await axeViolations(page)).toEqual([]);
      // In French the adapters write tokens that the base would hardly have written.
      await driver.write(
        "Cette directive permet de définir le nom du serveur. Elle est utilisée par le module pour les requêtes",
      );
      expect(await page.locator('#adapted-answer [data-step$="more"]').count()).toBeGreaterThan(0);
    });

    test("tells a token's probabilities and its alternatives", async () => {
      await driver.write(maths);
      const api = await complete({ prompt: maths, ...sampling, logprobs: 5, chameleon: { compare: true } });
      const { token_logprobs, top_logprobs } = api.choices[0].logprobs!;
      const compared = api.choices[0].chameleon!.compare!.tokens!;
      const at = 2;
      await page.locator("#adapted-answer .token").nth(at).click();
      const both = [token_logprobs[at]!, compared[at].base_logprob].map((logprob) => percent(Math.exp(logprob)));
      await driver.says("#token .token-sentence", new RegExp(`Adapted ${both[0]}, base ${both[1]}`));
      const rows = page.locator("#token tbody tr");
      expect(await rows.count()).toBe(5);
      const likeliest = Object.entries(top_logprobs[at]).sort(([, a], [, b]) => b - a)[0];
      const cells = await rows.first().locator("td").allInnerTexts();
      expect(cells[0]).toBe(percent(Math.exp(likeliest[1])));
    });

    test("moves the weights while one types, and tells what they were after each token", async () => {
      const prompt = "And the LORD said unto Moses, Go unto the children of Israel";
      await page.fill("#prompt", "");
      await page.locator("#prompt").pressSequentially(prompt);
      await driver.says("#weights", /and, the, him[\w ]* \d/);
      await page.click("#go");
      await driver.ended();
      const range = page.locator("#strip-range");
      await range.waitFor();
      const last = Number(await range.getAttribute("max"));
      expect(await page.locator("#strip > *").count()).toBe(last + 1);
      const [whole] = (await complete({ prompt, max_tokens: 1, chameleon: {} })).choices;
      const weightsOf = ({ chameleon }: CompletionResponse["choices"][number]) =>
        chameleon!.experts!.filter(({ weight }) => weight > 0).map(({ id, weight }) => [id, percent(weight)]);
      const shown = () =>
        page
          .locator("#weights li")
          .evaluateAll((items) =>
            items.map((item) => [item.getAttribute("data-expert"), item.querySelector("b")!.textContent]),
          );
      expect((await shown()).toSorted()).toEqual(weightsOf(whole).toSorted());
      // The slider moves by arrow keys, and the title quotes the beginning of the prompt that was weighed.
      await range.focus();
      for (let presses = 0; presses < 3; presses++) await page.keyboard.press("ArrowLeft");
      await driver.says("#weights-title", /After “.*” it would be answered by/);
      const beginning = /“…?(.*)”/s.exec(await driver.text("#weights-title"))![1];
      const at = prompt.indexOf(beginning) + beginning.length;
      expect(at).toBeLessThan(prompt.length);
      const [part] = (await complete({ prompt: prompt.slice(0, at), max_tokens: 1, chameleon: {} })).choices;
      expect((await shown()).toSorted()).toEqual(weightsOf(part).toSorted());
      expect(await range.getAttribute("aria-valuetext")).toContain(weightsOf(part)[0][1]);
      expect(await axeViolations(page)).toEqual([]);
    });

    test("offers every kind of text with what its adapter gains, and answers with one alone", async () => {
      const { data } = await stack.ask<CentroidList>("/v1/centroids");
      const french = data.find((centroid) => domainOf(centroid).name === "ser, des, est")!;
      for (const { id } of data) expect(await page.locator(`#answerer option[value="${id}"]`).count()).toBe(1);
      const option = page.locator(`#answerer option[value="${french.id}"]`);
      expect(await option.textContent()).toContain(surpriseChange(french.gain!.nats));
      await page.selectOption("#answerer", french.id);
      await driver.says("#weights", /100%/);
      expect(await page.locator(`#weights [data-expert="${french.id}"]`).count()).toBe(1);
      await page.selectOption("#answerer", "auto");
    });

    test("has examples under each tab, which are answered", async () => {
      const answers = { write: "#adapted-answer .token", label: "#label-result li", score: "#score-result li" };
      for (const [tab, answer] of Object.entries({ ...answers, chat: "#chat-log .assistant .token" })) {
        await page.click(`#tab-${tab}`);
        await page.locator(`#${tab} [role=toolbar] button`).first().click();
        await page.locator(answer).first().waitFor();
      }
      await driver.says("#chat-status", /complete/);
    });

    test("scores a text by base, adapter and mixture as the API does", async () => {
      const text = `${maths} spend on pencils in all? Each box costs $4, so 3 boxes cost 3 * 4 = <<3*4=12>>12 dollars.`;
      await page.click("#tab-score");
      await page.fill("#score-text", text);
      await page.click("#score-form button[type=submit]");
      await page.waitForSelector("#score-result li");
      const score = (wish: object) => complete({ prompt: text, max_tokens: 0, echo: true, logprobs: 0, ...wish });
      const base = await score({ model: "gpt2" });
      const read = Math.round(base.usage!.prompt_tokens / 2);
      const mean = ({ choices: [{ logprobs }] }: CompletionResponse) => {
        const scored = logprobs!.token_logprobs.slice(read);
        return scored.reduce<number>((sum, one) => sum + one!, 0) / scored.length;
      };
      const others = { adapter: "nearest", mixture: "auto" };
      for (const [id, adapter] of Object.entries(others)) {
        const by = await score({ chameleon: { adapter, evidence_tokens: read } });
        const said = await driver.text(`#score-result [data-contestant="${id}"] b`);
        expect(said).toBe(surpriseBeside(mean(by) - mean(base)));
      }
      const perplexity = Math.exp(-mean(base)).toFixed(1);
      expect(await driver.text('#score-result [data-contestant="base"]')).toContain(`perplexity ${perplexity}`);
      expect(await axeViolations(page)).toEqual([]);
    });

    test("labels a text as the API does, and says what is missing", async () => {
      await page.click("#tab-label");
      await page.fill("#label-names", "refund");
      await page.click("#label-form button[type=submit]");
      await driver.says("#label-failure", /labels/);
      const labels = ["refund", "delivery", "praise"];
      await page.fill("#label-names", labels.join(", "));
      await page.click("#label-form button[type=submit]");
      await page.waitForSelector("#label-result li");
      const input = await page.inputValue("#label-text");
      const { data } = await stack.ask<ClassifyResponse>("/v1/classify", { input, labels });
      const shown = await page.locator("#label-result li").allTextContents();
      const withPercent = (label: string) => `${label}${Math.round(100 * data[0].probabilities[label])}%`;
      expect(shown.toSorted()).toEqual(labels.map(withPercent).toSorted());
      expect(shown[0]).toContain(data[0].label);
      expect(await driver.text("#label-failure")).toBe("");
      expect(await axeViolations(page)).toEqual([]);
    });

    test("makes an adapter of examples, tells its gain, and lists it everywhere", async () => {
      const name = `recipes-${look.width}`;
      await page.click("#text-sample");
      // The page turns what is typed into a valid adapter name.
      await page.fill("#text-name", `Recipes ${look.width}!`);
      await page.click("#text-create");
      await driver.says("#text-status", new RegExp(`${name} is made`), 30_000);
      const { gain } = await stack.ask<Adapter>(`/v1/adapters/${name}`);
      expect(await driver.text("#text-status")).toContain(surpriseBeside(gain!.nats));
      for (const list of ["answerer", "score-adapter", "chat-answerer"]) {
        expect(await page.locator(`#${list} option[value="${name}"]`).count()).toBe(1);
      }
      expect(await axeViolations(page)).toEqual([]);
      await page.getByRole("button", { name: `Write with it: ${name}` }).click();
      await driver.says("#weights", new RegExp(`${name} 100%`));
      await driver.ended();
      page.once("dialog", (dialog) => void dialog.accept());
      await page.getByRole("button", { name: `Delete: ${name}` }).click();
      await driver.says("#list-status", /is deleted/);
      expect(await page.locator(`#answerer option[value="${name}"]`).count()).toBe(0);
    });

    test("chats", async () => {
      await page.click("#tab-chat");
      await page.fill("#chat-input", "How many apples are in 3 boxes of 4?");
      await page.keyboard.press("Enter");
      await driver.says("#chat-status", /complete/);
      expect(await page.locator("#chat-log .assistant [data-step]").count()).toBeGreaterThan(0);
      expect(await driver.text("#chat-weights")).toMatch(/\d%/);
      expect(await axeViolations(page)).toEqual([]);
    });

    test("loads nothing from elsewhere, and no script fails", () => {
      expect(driver.problems).toEqual([]);
    });
  });
});
