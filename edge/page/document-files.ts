import { limits } from "../../shared/contracts/limits.ts";
import { CallFailure } from "./api.ts";
import type { NamedText } from "./documents.ts";
import { sizeText } from "./words.ts";

export interface FoundFile {
  path: string;
  file: File;
}

const endings = ["md", "markdown", "txt"];
export const acceptedEndings = endings.map((ending) => `.${ending}`).join();

const endingOf = (path: string) => path.split(".").at(-1)!.toLowerCase();

/** Includes files in dropped folders. Must be called during the drop event, because the browser then clears `data`. */
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
  // A call of `readEntries` gives at most a hundred entries.
  for (;;) {
    const entries = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (entries.length === 0) return found;
    found.push(...(await Promise.all(entries.map(filesOf))).flat());
  }
}

/** Reads files in order of their paths. `leftOut`: sentences about files that were not read. Throws CallFailure for too many bytes. */
export async function readFiles(found: readonly FoundFile[]): Promise<{ documents: NamedText[]; leftOut: string[] }> {
  const visible = found.filter(({ path }) => !path.split("/").some((part) => part.startsWith(".")));
  const [readable, others] = [true, false].map((wanted) =>
    visible.filter(({ path }) => endings.includes(endingOf(path)) === wanted),
  );
  const leftOut: string[] = [];
  const pdf = others.find(({ path }) => endingOf(path) === "pdf");
  if (pdf) leftOut.push(`${pdf.path} is PDF; convert it: pdftotext -layout file.pdf file.txt.`);
  const rest = others.length - (pdf ? 1 : 0);
  if (rest > 0) leftOut.push(`${rest} left out: the page reads Markdown and text; the API takes HTML and JSONL, too.`);
  const bytes = readable.reduce((sum, { file }) => sum + file.size, 0);
  if (bytes > limits.documentBodyBytes) {
    throw new CallFailure(
      `These files have ${sizeText(bytes)}; at most ${sizeText(limits.documentBodyBytes)} can be uploaded at once.`,
    );
  }
  const documents: NamedText[] = [];
  for (const { path, file } of readable.toSorted((a, b) => a.path.localeCompare(b.path, "en", { numeric: true }))) {
    try {
      const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
      // The name is cut to leave room for `, the end`, which `divide` may add.
      const name = path.slice(16 - limits.documentNameCharacters);
      if (text.trim() !== "") documents.push({ name, text });
    } catch {
      leftOut.push(`${path} is not text in UTF-8.`);
    }
  }
  return { documents, leftOut };
}
