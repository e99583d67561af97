/** What a reader's text changes: the base's and the adapted answer to the beginning of a text that was held back, beside how it goes on, and the score of that text. */
import type { ChameleonBlock, CompletionResponse } from "../../shared/contracts/responses.ts";
import { type Api, CallFailure, failureText, isAbort } from "./api.ts";
import type { Catalog } from "./catalog.ts";
import { cutAt, type NamedText, stretchesOf } from "./documents.ts";
import { byId, make, table } from "./elements.ts";
import { sourcesLegendRow } from "./experts.ts";
import { upload } from "./memory-jobs.ts";
import { SourcedTokens, showPassages, sourcedPieces, type UploadedTexts } from "./passages.ts";
import { count, signedNats, surpriseChange } from "./words.ts";

export interface TrialParts {
  api: Api;
  catalog: Catalog;
  texts: UploadedTexts;
  /** Goes where the adapter answers from now on. */
  onKept(name: string): void;
}

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
const answer = { max_tokens: 60, temperature: 0.7, top_p: 0.9, seed: 4 };
const continuationCharacters = 280;

export class Trial {
  readonly #parts: TrialParts;
  readonly #section = byId("trial", HTMLElement);
  readonly #form = byId("trial-form", HTMLFormElement);
  readonly #prompt = byId("trial-prompt", HTMLTextAreaElement);
  readonly #failure = byId("trial-failure", HTMLElement);
  readonly #gain = byId("trial-gain", HTMLElement);
  readonly #next = byId("trial-next", HTMLButtonElement);
  readonly #keep = byId("trial-keep", HTMLButtonElement);
  readonly #tokens: SourcedTokens;
  #tried: Tried = { name: "", held: null };
  /** Beginnings of the held-back text's stretches, each with how it goes on. */
  #passages: { prompt: string; continuation: string }[] = [];
  #at = 0;
  #running = new AbortController();
  #measured = Promise.resolve();

  constructor(parts: TrialParts) {
    this.#parts = parts;
    const panel = byId("trial-passage", HTMLElement);
    this.#tokens = new SourcedTokens(byId("trial-own", HTMLElement), (piece) =>
      showPassages(panel, piece, parts.texts),
    );
    byId("trial-legend", HTMLElement).replaceChildren(sourcesLegendRow());
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#write();
    });
    this.#next.addEventListener("click", () => {
      this.#showPassage((this.#at + 1) % this.#passages.length);
      void this.#write();
    });
    this.#prompt.addEventListener("input", () => this.#showContinuation());
    this.#keep.addEventListener("click", () => void this.#keepIt());
  }

  /** Shows an adapter that has just been made. */
  open(tried: Tried): void {
    this.#tried = tried;
    this.#running.abort();
    const { name, held } = tried;
    this.#passages = held ? passagesOf(held.text) : [];
    this.#section.hidden = false;
    byId("trial-title", HTMLElement).textContent = `The base against ${name}`;
    byId("trial-prompt-label", HTMLElement).textContent = held
      ? `Prompt, from “${held.name}”, which was held back`
      : "Prompt";
    this.#keep.textContent = held ? "Keep and use it" : "Use it";
    this.#next.hidden = this.#passages.length < 2;
    for (const id of ["trial-base", "trial-own", "trial-figures", "trial-passage"])
      byId(id, HTMLElement).replaceChildren();
    this.#gain.textContent = "";
    this.#failure.textContent = "";
    this.#showPassage(0);
    this.#section.scrollIntoView({ block: "nearest" });
    if (held) this.#measured = this.#write().then(() => this.#measure(held));
  }

  /** Hides the trial of an adapter that is deleted. */
  close(name: string): void {
    if (this.#tried.name !== name) return;
    this.#running.abort();
    this.#section.hidden = true;
  }

  #showPassage(at: number): void {
    this.#at = at;
    this.#prompt.value = this.#passages[at]?.prompt ?? "";
    this.#showContinuation();
  }

  /** What the author wrote, while the prompt is the author's. */
  #showContinuation(): void {
    const { prompt, continuation } = this.#passages[this.#at] ?? { prompt: null, continuation: "" };
    byId("trial-author-card", HTMLElement).hidden = this.#prompt.value !== prompt;
    byId("trial-author", HTMLElement).textContent = `${continuation}…`;
  }

  async #write(): Promise<void> {
    const { api, catalog } = this.#parts;
    this.#running.abort();
    this.#running = new AbortController();
    const { signal } = this.#running;
    const [base, own, panel] = ["trial-base", "trial-own", "trial-passage"].map((id) => byId(id, HTMLElement));
    const status = byId("trial-status", HTMLElement);
    status.textContent = "";
    for (const element of [base, own, panel]) element.replaceChildren();
    const ask = async (wish: object, show: (choice: CompletionResponse["choices"][number]) => void) => {
      const body = { prompt: this.#prompt.value, ...answer, ...wish };
      for await (const { choices } of api.chunks<CompletionResponse>("/v1/completions", body, signal))
        choices.forEach(show);
    };
    this.#failure.textContent = "";
    try {
      if (this.#prompt.value.trim() === "") throw new CallFailure("Write a prompt first.");
      await Promise.all([
        ask({ model: catalog.baseModel }, ({ text }) => base.append(text)),
        ask({ chameleon: { adapter: this.#tried.name, sources: true } }, ({ text, chameleon }) => {
          own.append(...sourcedPieces(text, chameleon?.sources ?? []).map((piece) => this.#tokens.make(piece)));
        }),
      ]);
      status.textContent = "Both answers are complete.";
    } catch (error) {
      if (!isAbort(error)) this.#failure.textContent = failureText(error);
    }
  }

  /** Scores the held-back text by the base and with the reader's text. */
  async #measure(held: NamedText): Promise<void> {
    const { name } = this.#tried;
    this.#gain.textContent = "The held-back text is scored…";
    const said = await this.#gainOf(name, held.text).catch((error: unknown) => ({ failure: failureText(error) }));
    if (this.#tried.name !== name) return;
    if ("failure" in said) {
      this.#gain.textContent = "";
      this.#failure.textContent = said.failure;
      return;
    }
    const { own, base, tokens } = said;
    const gain = own - base;
    const caution = tokens < fewTokens ? " That is little text: take it as a hint." : "";
    const perplexities = `perplexity ${Math.exp(-own).toFixed(1)} instead of ${Math.exp(-base).toFixed(1)}`;
    this.#gain.replaceChildren(
      make("b", {}, `With your text the model is ${surpriseChange(gain)}`),
      ` by “${held.name}”, which it has not seen: ${perplexities} over ${count(tokens, "token")}.${caution}`,
    );
    const row = (by: string, mean: number) => [
      by,
      Math.exp(-mean).toFixed(1),
      (-mean).toFixed(3),
      signedNats(mean - base),
    ];
    const figures = table(
      "Mean over the scored tokens",
      ["Scored by", "Perplexity", "Surprise, nats", "Gain, nats"],
      [row("Base", base), row(name, own)],
    );
    byId("trial-figures", HTMLElement).replaceChildren(
      make("details", {}, make("summary", {}, "The figures in nats"), figures),
    );
  }

  /** Mean log-probabilities of the held-back text's tokens, those apart by which the answer weighs what it reads. */
  async #gainOf(
    name: string,
    text: string,
    characters = stretchCharacters,
  ): Promise<{ own: number; base: number; tokens: number }> {
    const body = {
      prompt: stretchesOf(text, characters, scoredStretches),
      ...{ max_tokens: 0, echo: true, logprobs: 0 },
      chameleon: { adapter: name, evidence_tokens: evidenceTokens, compare: true },
    };
    try {
      const { choices } = await this.#parts.api.json<CompletionResponse>("/v1/completions", body);
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
    const { api, catalog, texts, onKept } = this.#parts;
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
        this.#keep.textContent = "Use it";
        await catalog.load();
      }
      onKept(name);
    } catch (error) {
      this.#failure.textContent = failureText(error);
    } finally {
      this.#keep.disabled = false;
    }
  }
}

function passagesOf(text: string): { prompt: string; continuation: string }[] {
  const stretches = stretchesOf(text, stretchCharacters, scoredStretches).map((stretch) => stretch.trim());
  const long = stretches.filter(({ length }, i) => i === 0 || length >= stretchCharacters / 2);
  return long.map((stretch) => {
    const at = cutAt(stretch, Math.round(stretch.length * 0.6));
    return { prompt: stretch.slice(0, at), continuation: stretch.slice(at, at + continuationCharacters) };
  });
}
