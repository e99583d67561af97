/** Reads documents from files and folders that were chosen or dropped. */
import { limits } from "../../shared/contracts/limits.ts";
import { CallFailure } from "./api.ts";
import type { NamedText } from "./documents.ts";
import { sizeText } from "./words.ts";

/** A file and its path in what was chosen or dropped. */
export interface FoundFile {
  path: string;
  file: File;
}

const endings = ["md", "markdown", "txt", "html", "htm", "jsonl"];
/** For `accept` of a file input. */
export const acceptedEndings = endings.map((ending) => `.${ending}`).join();

const endingOf = (path: string) => path.split(".").at(-1)!.toLowerCase();

/** All files of a drop, those in folders included. Call it while the event is handled: its data are gone afterwards. */
export function droppedFiles(data: DataTransfer): Promise<FoundFile[]> {
  const entries = [...data.items].flatMap((item) => item.webkitGetAsEntry() ?? []);
  return Promise.all(entries.map(filesOf)).then((found) => found.flat());
}

async function filesOf(entry: FileSystemEntry): Promise<FoundFile[]> {
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    return [{ path: entry.fullPath.replace(/^\//, ""), file }];
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const found: FoundFile[] = [];
  // A reader gives at most a hundred entries at a time.
  for (;;) {
    const entries = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (entries.length === 0) return found;
    found.push(...(await Promise.all(entries.map(filesOf))).flat());
  }
}

/** Files as documents, by path, and sentences about files that were left out. Throws CallFailure beyond the limit of a request. */
export async function readFiles(found: readonly FoundFile[]): Promise<{ documents: NamedText[]; leftOut: string[] }> {
  const visible = found.filter(({ path }) => !path.split("/").some((part) => part.startsWith(".")));
  const [readable, others] = [true, false].map((wanted) =>
    visible.filter(({ path }) => endings.includes(endingOf(path)) === wanted),
  );
  const leftOut: string[] = [];
  const pdf = others.find(({ path }) => endingOf(path) === "pdf");
  if (pdf) leftOut.push(`${pdf.path} is PDF; convert it: pdftotext -layout file.pdf file.txt.`);
  const rest = others.length - (pdf ? 1 : 0);
  if (rest > 0) leftOut.push(`${rest} of other kinds ${rest === 1 ? "was" : "were"} left out.`);
  requireSize(readable.reduce((sum, { file }) => sum + file.size, 0));
  const documents: NamedText[] = [];
  for (const { path, file } of readable.toSorted((a, b) => a.path.localeCompare(b.path, "en", { numeric: true }))) {
    try {
      const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
      documents.push(...documentsOf(path, text).filter((one) => one.text.trim() !== ""));
    } catch (error) {
      if (error instanceof CallFailure) leftOut.push(error.message);
      else leftOut.push(`${path} is not text in UTF-8.`);
    }
  }
  return { documents, leftOut };
}

function requireSize(bytes: number): void {
  if (bytes <= limits.documentBodyBytes) return;
  throw new CallFailure(
    `These files have ${sizeText(bytes)}; at most ${sizeText(limits.documentBodyBytes)} can be uploaded at once.`,
  );
}

/** The documents of one file; of JSONL, one a line. Throws CallFailure for a line that is none. */
function documentsOf(path: string, text: string): NamedText[] {
  const ending = endingOf(path);
  // Room for a number, or for what names a part.
  const name = path.slice(16 - limits.documentNameCharacters);
  if (ending.startsWith("htm")) return [{ name, text: textOfHtml(text) }];
  if (ending !== "jsonl") return [{ name, text }];
  const lines = text.split("\n").flatMap((line, i) => (line.trim() === "" ? [] : [{ line, number: i + 1 }]));
  return lines.map(({ line, number }) => {
    const value = parsed(line);
    const fields = typeof value === "string" ? { text: value } : (value as Partial<NamedText> | null);
    if (typeof fields?.text !== "string") {
      throw new CallFailure(`Line ${number} of ${path} is neither a JSON string nor an object with a text.`);
    }
    return { name: typeof fields.name === "string" ? fields.name : `${name}:${number}`, text: fields.text };
  });
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return null;
  }
}

const blocks =
  "address,article,blockquote,br,dd,div,dl,dt,figure,footer,h1,h2,h3,h4,h5,h6,header,hr,li,main,ol,p,pre,section,table,tr,ul";

/** What a reader sees of a page, a line a block. */
function textOfHtml(markup: string): string {
  const { body } = new DOMParser().parseFromString(markup, "text/html");
  const lineBreak = "\uE000";
  for (const hidden of body.querySelectorAll("script,style,template,noscript,svg")) hidden.remove();
  for (const code of body.querySelectorAll("pre")) code.textContent = code.textContent.replaceAll("\n", lineBreak);
  for (const block of body.querySelectorAll(blocks)) {
    block.before(lineBreak);
    block.after(lineBreak);
  }
  const line = body.textContent.replace(/\s+/g, " ");
  return line.replace(/ ?\uE000[ \uE000]*/g, (breaks) => (breaks.split(lineBreak).length > 3 ? "\n\n" : "\n")).trim();
}
