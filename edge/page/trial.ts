/** What a reader's text changes: how well a part that was held back is foretold with it and without, and its beginnings to continue. */
import type { ChameleonBlock, CompletionResponse } from "../../shared/contracts/responses.ts";
import { CallFailure, failureText } from "./api.ts";
import { cutAt, type NamedText, stretchesOf } from "./documents.ts";
import { byId, make } from "./elements.ts";
import { figures } from "./experts.ts";
import { upload } from "./memory-jobs.ts";
import type { Page, Passage } from "./page.ts";
import { wishOf } from "./request.ts";
import { count, surpriseBeside } from "./words.ts";

export interface Tried {
  name: string;
  /** null where nothing was held back. */
  held: NamedText | null;
}

/** Of a stretch of the held-back text that is scored, or continued; the context of small models holds it. */
const stretchCharacters = 1000;
const scoredStretches = 6;
/** Tokens of a stretch by which the answer weighs what it reads; those after them are scored. */
const evidenceTokens = 64;
/** Fewer scored tokens are little to go by. */
const fewTokens = 200;
const continuationCharacters = 280;

export class Trial {
  readonly #page: Page;
  readonly #section = byId("trial");
  readonly #failure = byId("trial-failure");
  readonly #gain = byId("trial-gain");
  readonly #figures = byId("trial-figures");
  readonly #keep = byId("trial-keep", HTMLButtonElement);
  #tried: Tried = { name: "", held: null };
  #measured = Promise.resolve();

  constructor(page: Page) {
    this.#page = page;
    this.#keep.addEventListener("click", () => void this.#keepIt());
  }

  /** Shows an adapter that has just been made. */
  open(tried: Tried): void {
    this.#tried = tried;
    this.#section.hidden = false;
    this.#keep.textContent = tried.held ? "Add the rest and chat" : "Chat with it";
    for (const element of [this.#figures, this.#gain, this.#failure]) element.replaceChildren();
    if (tried.held === null) return;
    this.#measured = this.#measure(tried.held);
    this.#page.compare(passagesOf(tried.held.text, tried.name));
  }

  /** Hides the trial of an adapter that is deleted. */
  close(name: string): void {
    if (this.#tried.name !== name) return;
    this.#tried = { name: "", held: null };
    this.#section.hidden = true;
  }

  /** Scores the held-back text by the base and with the reader's text. */
  async #measure(held: NamedText): Promise<void> {
    const { name } = this.#tried;
    this.#gain.textContent = "The part that was held back is scored…";
    const said = await this.#gainOf(name, held.text).catch((error: unknown) => ({ failure: failureText(error) }));
    if (this.#tried.name !== name) return;
    this.#gain.textContent = "";
    if ("failure" in said) {
      this.#failure.textContent = said.failure;
      return;
    }
    const { own, base, tokens } = said;
    const caution = tokens < fewTokens ? " That is little text: take it as a hint." : "";
    this.#gain.append(
      make("b", {}, `With your text the model is ${surpriseBeside(own - base, "without it")}`),
      ` by “${held.name}”, which it has not seen (${count(tokens, "token")}).${caution}`,
    );
    this.#figures.append(
      figures([
        { name: "Base", mean: base },
        { name, mean: own },
      ]),
    );
  }

  /** Mean log-probabilities of the held-back text's tokens, those apart by which the answer weighs what it reads. */
  async #gainOf(
    name: string,
    text: string,
    characters = stretchCharacters,
  ): Promise<{ own: number; base: number; tokens: number }> {
    const prompt = stretchesOf(text, characters, scoredStretches);
    const body = { prompt, max_tokens: 0, echo: true, logprobs: 0, ...wishOf(name, evidenceTokens) };
    try {
      const { choices } = await this.#page.api.json<CompletionResponse>("/v1/completions", body);
      // The first token has no score, so it is not compared.
      const scored = choices.flatMap(({ chameleon }) =>
        (chameleon as ChameleonBlock).compare!.tokens.slice(evidenceTokens - 1),
      );
      if (scored.length === 0) throw new CallFailure("The held-back text is too short to be scored.");
      const mean = (of: "logprob" | "base_logprob") => scored.reduce((sum, one) => sum + one[of], 0) / scored.length;
      return { own: mean("logprob"), base: mean("base_logprob"), tokens: scored.length };
    } catch (error) {
      // Some scripts take several tokens a character.
      const isTooLong = error instanceof CallFailure && error.code === "context_length_exceeded";
      if (!isTooLong || characters < 200) throw error;
      return this.#gainOf(name, text, characters / 2);
    }
  }

  /** Uploads what was held back, too. */
  async #keepIt(): Promise<void> {
    const { api, catalog, texts, chatWith } = this.#page;
    const { name, held } = this.#tried;
    const { signal } = new AbortController();
    this.#keep.disabled = true;
    this.#failure.textContent = "";
    try {
      if (held) {
        // What is uploaded is not measured on.
        await this.#measured;
        const documents = [held];
        await upload(api, { name, documents, isAddition: true, signal, onProgress: () => {} });
        texts.add(name, documents);
        this.#tried = { name, held: null };
        this.#keep.textContent = "Chat with it";
        await catalog.load();
      }
      chatWith(name);
    } catch (error) {
      this.#failure.textContent = failureText(error);
    } finally {
      this.#keep.disabled = false;
    }
  }
}

function passagesOf(text: string, adapter: string): Passage[] {
  const stretches = stretchesOf(text, stretchCharacters, scoredStretches).map((stretch) => stretch.trim());
  const long = stretches.filter(({ length }, i) => i === 0 || length >= stretchCharacters / 2);
  return long.map((stretch, i) => {
    const at = cutAt(stretch, Math.round(stretch.length * 0.6));
    const continuation = stretch.slice(at, at + continuationCharacters);
    return { name: `Your text ${i + 1}`, text: stretch.slice(0, at), continuation, adapter };
  });
}
