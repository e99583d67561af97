/** “Your text”: documents are chosen, dropped or pasted, named and uploaded; then a trial shows what they change. */
import { type Api, CallFailure, failureText } from "./api.ts";
import type { Catalog } from "./catalog.ts";
import { acceptedEndings, droppedFiles, type FoundFile, readFiles } from "./document-files.ts";
import { divide, type NamedText, nameFor, pastedName, withOwnNames } from "./documents.ts";
import { button, byId, make } from "./elements.ts";
import { upload } from "./memory-jobs.ts";
import type { UploadedTexts } from "./passages.ts";
import type { Trial } from "./trial.ts";
import { count, percent, sizeText } from "./words.ts";

export interface YourTextParts {
  api: Api;
  catalog: Catalog;
  texts: UploadedTexts;
  trial: Trial;
  /** A clock in milliseconds. */
  now(): number;
}

/** Documents that are listed one by one. */
const listedDocuments = 100;
/** Names that no adapter can have, beside those of centroids. */
const reserved = ["auto", "base", "nearest", "off", "static"];

export class YourText {
  readonly #parts: YourTextParts;
  readonly #pasted = byId("text-input", HTMLTextAreaElement);
  readonly #name = byId("text-name", HTMLInputElement);
  readonly #holdBack = byId("hold-back", HTMLInputElement);
  readonly #status = byId("text-status", HTMLElement);
  readonly #failure = byId("text-failure", HTMLElement);
  readonly #create = byId("text-create", HTMLButtonElement);
  readonly #cancel = byId("text-cancel", HTMLButtonElement);
  #files: NamedText[] = [];
  #hasOwnName = false;
  #running: AbortController | null = null;

  constructor(parts: YourTextParts) {
    this.#parts = parts;
    byId("text-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.#running) void this.#make();
    });
    this.#cancel.addEventListener("click", () => this.#running?.abort());
    this.#pasted.addEventListener("input", () => this.#draw());
    this.#holdBack.addEventListener("change", () => this.#draw());
    this.#name.addEventListener("input", () => {
      this.#hasOwnName = this.#name.value !== "";
    });
    for (const [id, opener] of [
      ["files", "choose-files"],
      ["folder", "choose-folder"],
    ]) {
      const input = byId(id, HTMLInputElement);
      input.accept = acceptedEndings;
      byId(opener, HTMLButtonElement).addEventListener("click", () => input.click());
      input.addEventListener("change", () => {
        const chosen = [...input.files!].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
        input.value = "";
        void this.#add(Promise.resolve(chosen));
      });
    }
    this.#listenToDrops(byId("adapters", HTMLElement));
    parts.catalog.onChange(() => this.#draw());
  }

  #listenToDrops(target: HTMLElement): void {
    const drop = byId("drop", HTMLElement);
    target.addEventListener("dragover", (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      drop.classList.add("over");
    });
    target.addEventListener("dragleave", () => drop.classList.remove("over"));
    target.addEventListener("drop", (event) => {
      drop.classList.remove("over");
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      void this.#add(droppedFiles(event.dataTransfer));
    });
  }

  async #add(found: Promise<FoundFile[]>): Promise<void> {
    try {
      const { documents, leftOut } = await readFiles(await found);
      const paths = new Set(documents.map(({ name }) => name));
      this.#files = [...this.#files.filter(({ name }) => !paths.has(name)), ...documents];
      const none = documents.length === 0 ? ["No document was found there."] : [];
      this.#failure.textContent = [...none, ...leftOut].join(" ");
    } catch (error) {
      this.#failure.textContent = failureText(error);
    }
    this.#draw();
  }

  get #documents(): NamedText[] {
    const text = this.#pasted.value;
    return withOwnNames([...this.#files, ...(text.trim() === "" ? [] : [{ name: pastedName, text }])]);
  }

  get #division() {
    const documents = this.#documents;
    return this.#holdBack.checked ? divide(documents) : { uploaded: documents, held: null };
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
      return make(
        "li",
        {},
        make("span", {}, name),
        size,
        button("Remove", remove, { "aria-label": `Remove: ${name}` }),
      );
    });
    byId("documents", HTMLElement).replaceChildren(...items);
    const total = bytes.reduce((sum, one) => sum + one, 0);
    byId("documents-total", HTMLElement).textContent =
      documents.length === 0 ? "" : `${count(documents.length, "document")}, ${sizeText(total)}.`;
    byId("held-back", HTMLElement).textContent = this.#heldText();
    if (!this.#hasOwnName) this.#name.value = nameFor(documents, (name) => this.#isTaken(name));
  }

  #isTaken(name: string): boolean {
    const { adapters, centroids } = this.#parts.catalog;
    return reserved.includes(name) || [...adapters, ...centroids].some(({ id }) => id === name);
  }

  #heldText(): string {
    const { held } = this.#division;
    if (held)
      return `“${held.name}” (${sizeText(new Blob([held.text]).size)}) is not uploaded with the rest: what yours gains is measured on it, and you can add it then.`;
    if (!this.#holdBack.checked || this.#documents.length === 0) return "";
    return "This is too little text to hold a part back.";
  }

  async #make(): Promise<void> {
    const { api, catalog, texts, trial, now } = this.#parts;
    const running = new AbortController();
    const { signal } = running;
    const progress = byId("text-progress", HTMLProgressElement);
    const name = this.#name.value.trim();
    const { uploaded, held } = this.#division;
    this.#failure.textContent = "";
    this.#running = running;
    try {
      if (uploaded.length === 0) throw new CallFailure("Paste text, or choose files first.");
      this.#showRunning(true);
      progress.removeAttribute("value");
      this.#status.textContent = "Your text is read…";
      const startedMs = now();
      const onProgress = (built: number, tokens: number) => {
        progress.value = built / tokens;
        this.#status.textContent = `Your text is read: ${percent(built / tokens)} of ${count(tokens, "token")}…`;
      };
      const { memory } = await upload(api, { name, documents: uploaded, signal, onProgress });
      const seconds = ((now() - startedMs) / 1000).toFixed(1);
      const { documents, tokens } = memory!;
      this.#status.textContent = `${name} is ready after ${seconds} s: ${count(documents, "document")}, ${count(tokens, "token")}.`;
      texts.add(name, uploaded);
      this.#clear();
      await catalog.load();
      trial.open({ name, held });
    } catch (error) {
      this.#status.textContent = signal.aborted ? "Cancelled." : "";
      this.#failure.textContent = failureText(error);
      // The server may have been done at the same moment: the list says so.
      if (signal.aborted) await catalog.load().catch(() => undefined);
    } finally {
      this.#running = null;
      this.#showRunning(false);
    }
  }

  #clear(): void {
    this.#files = [];
    this.#pasted.value = "";
    this.#hasOwnName = false;
    this.#draw();
  }

  #showRunning(isRunning: boolean): void {
    byId("text-progress", HTMLProgressElement).hidden = !isRunning;
    this.#cancel.hidden = !isRunning;
    this.#create.disabled = isRunning;
  }
}
