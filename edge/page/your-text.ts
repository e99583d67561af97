/** “Drop your text here”: uploads documents that answers quote, or examples that an adapter learns from. */
import { limits } from "../../shared/contracts/limits.ts";
import type { Adapter } from "../../shared/contracts/responses.ts";
import { CallFailure, failureText } from "./api.ts";
import { acceptedEndings, droppedFiles, type FoundFile, readFiles } from "./document-files.ts";
import { divide, examplesIn, type NamedText, nameFor, pastedName, slugOf, withAdded } from "./documents.ts";
import { button, byId, make } from "./elements.ts";
import { gainText } from "./own-adapters.ts";
import type { Page } from "./page.ts";
import { gainOn, pathOf, upload } from "./uploads.ts";
import { count, percent, sizeText } from "./words.ts";

const listedDocuments = 100;
const reserved = ["auto", "base", "nearest", "off", "static"];

export class YourText {
  readonly #page: Page;
  readonly #pasted = byId("text-input", HTMLTextAreaElement);
  readonly #name = byId("text-name", HTMLInputElement);
  readonly #use = byId("text-use", HTMLSelectElement);
  readonly #status = byId("text-status");
  readonly #gain = byId("text-gain");
  readonly #failure = byId("text-failure");
  readonly #progress = byId("text-progress", HTMLProgressElement);
  readonly #cancel = byId("text-cancel", HTMLButtonElement);
  #files: NamedText[] = [];
  /** The user has named the adapter, so its name no longer follows the documents. */
  #hasOwnName = false;
  #running: AbortController | null = null;

  constructor(page: Page) {
    this.#page = page;
    byId("text-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.#running) void this.#make();
    });
    this.#cancel.addEventListener("click", () => this.#running?.abort());
    for (const field of [this.#pasted, this.#use]) field.addEventListener("input", () => this.#draw());
    this.#name.addEventListener("change", () => {
      this.#hasOwnName = this.#name.value.trim() !== "";
      if (this.#hasOwnName) this.#name.value = slugOf(this.#name.value);
    });
    byId("text-sample", HTMLButtonElement).addEventListener("click", () => {
      const { children } = byId("sample-examples", HTMLTemplateElement).content;
      this.#pasted.value = [...children].map(({ textContent }) => textContent).join("\n\n");
      this.#use.value = "examples";
      this.#hasOwnName = true;
      this.#name.value = "recipes";
      this.#draw();
    });
    const files = byId("files", HTMLInputElement);
    files.accept = acceptedEndings;
    byId("choose-files", HTMLButtonElement).addEventListener("click", () => files.click());
    files.addEventListener("change", () => {
      const chosen = [...files.files!].map((file) => ({ path: file.name, file }));
      files.value = "";
      void this.#add(Promise.resolve(chosen));
    });
    this.#listenToDrops();
    page.catalog.onChange(() => this.#draw());
  }

  #listenToDrops(): void {
    const drop = byId("drop");
    document.addEventListener("dragover", (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      drop.classList.add("over");
    });
    document.addEventListener("dragleave", () => drop.classList.remove("over"));
    document.addEventListener("drop", (event) => {
      drop.classList.remove("over");
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      void this.#add(droppedFiles(event.dataTransfer));
    });
  }

  async #add(found: Promise<FoundFile[]>): Promise<void> {
    try {
      const { documents, leftOut } = await readFiles(await found);
      this.#files = withAdded(this.#files, documents);
      const none = documents.length === 0 ? ["No document was found there."] : [];
      this.#failure.textContent = [...none, ...leftOut].join(" ");
    } catch (error) {
      this.#failure.textContent = failureText(error);
    }
    this.#draw();
  }

  get #documents(): NamedText[] {
    const text = this.#pasted.value;
    return [...this.#files, ...(text.trim() === "" ? [] : [{ name: pastedName, text }])];
  }

  get #examples(): string[] {
    return this.#documents.flatMap(({ text }) => examplesIn(text));
  }

  #draw(): void {
    const documents = this.#documents;
    const bytes = documents.map(({ text }) => new Blob([text]).size);
    const items = this.#files.slice(0, listedDocuments).map((document, i) => {
      const { name } = document;
      const remove = () => {
        this.#files = this.#files.filter((one) => one !== document);
        this.#draw();
      };
      const size = make("small", {}, sizeText(bytes[i]));
      const removal = button("Remove", remove, { "aria-label": `Remove: ${name}` });
      return make("li", { class: "document" }, make("span", {}, name), size, removal);
    });
    byId("documents").replaceChildren(...items);
    const isEmpty = documents.length === 0;
    byId("text-fields").hidden = isEmpty;
    byId("text-sample").hidden = !isEmpty;
    const total = bytes.reduce((sum, one) => sum + one, 0);
    const { held } = divide(documents);
    const measured = held ? ` “${held.name}” is added last: before that, the gain of the rest is measured on it.` : "";
    byId("documents-total").textContent =
      this.#use.value === "examples"
        ? `${count(this.#examples.length, "example")} of 2 to ${limits.adapterExamples.toLocaleString("en")}, an empty line between them.`
        : `${count(documents.length, "document")}, ${sizeText(total)}.${measured}`;
    if (!this.#hasOwnName) this.#name.value = nameFor(documents, (name) => this.#isTaken(name));
  }

  #isTaken(name: string): boolean {
    const { adapters, centroids } = this.#page.catalog;
    return reserved.includes(name) || [...adapters, ...centroids].some(({ id }) => id === name);
  }

  async #make(): Promise<void> {
    const { catalog } = this.#page;
    const running = new AbortController();
    const { signal } = running;
    const name = slugOf(this.#name.value);
    for (const element of [this.#failure, this.#gain]) element.textContent = "";
    this.#running = running;
    try {
      if (this.#documents.length === 0) throw new CallFailure("Paste text, or choose files first.");
      this.#name.value = name;
      this.#showRunning(true);
      this.#status.textContent = "Your text is read…";
      if (this.#use.value === "examples") await this.#learn(name, signal);
      else await this.#quote(name, signal);
    } catch (error) {
      this.#status.textContent = signal.aborted ? "Cancelled." : "";
      this.#failure.textContent = failureText(error);
      // If the server made the adapter before it read the abort, the list shows the adapter.
      if (signal.aborted) await catalog.load().catch(() => undefined);
    } finally {
      this.#running = null;
      this.#showRunning(false);
    }
  }

  async #learn(name: string, signal: AbortSignal): Promise<void> {
    const { api, catalog } = this.#page;
    const body = { name, examples: this.#examples };
    const made = await api.json<Adapter>("/v1/adapters", body, { signal });
    await catalog.load();
    this.#clear();
    this.#status.replaceChildren(make("b", {}, `${name} is made. `), gainText(made));
  }

  /** Uploads documents, measures the gain on a held-back document, then uploads that document, too. */
  async #quote(name: string, signal: AbortSignal): Promise<void> {
    const { api, catalog, texts, now } = this.#page;
    const { uploaded, held } = divide(this.#documents);
    const startedMs = now();
    const onProgress = (built: number, tokens: number) => {
      this.#progress.value = built / tokens;
      this.#status.textContent = `Your text is read: ${percent(built / tokens)} of ${count(tokens, "token")}…`;
    };
    const { memory } = await upload(api, { name, documents: uploaded }, signal, onProgress);
    const seconds = ((now() - startedMs) / 1000).toFixed(1);
    const { documents, tokens } = memory!;
    this.#status.textContent = `${name} is ready after ${seconds} s: ${count(documents, "document")}, ${count(tokens, "token")}.`;
    texts.add(name, uploaded);
    this.#clear();
    await catalog.load();
    if (!held) return;
    // The adapter is made, so there is nothing left that the user could cancel.
    this.#cancel.hidden = true;
    this.#gain.textContent = "The gain is measured…";
    this.#gain.textContent = await gainOn(held, name, api).catch(failureText);
    await api.json(`${pathOf(name)}/documents`, { documents: [held] });
    texts.add(name, [held]);
    await catalog.load();
  }

  #clear(): void {
    this.#files = [];
    this.#pasted.value = "";
    this.#use.value = "documents";
    this.#hasOwnName = false;
    this.#draw();
  }

  #showRunning(isRunning: boolean): void {
    this.#progress.removeAttribute("value");
    this.#progress.hidden = !isRunning;
    this.#cancel.hidden = !isRunning;
    byId("text-create", HTMLButtonElement).disabled = isRunning;
  }
}
