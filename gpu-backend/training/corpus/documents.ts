import { createHash } from "node:crypto";

export interface Document {
  /** The file's name and, for a record of JSONL, the line. */
  name: string;
  text: string;
}

/** Minimum documents of a corpus. A smaller corpus is cut into sections. */
const minDocuments = 10;
const sectionCharacters = 16_000;

const recordExtensions = [".jsonl", ".ndjson"];
const textExtensions = [".txt", ".text", ".md", ".markdown", ".rst"];

export function isCorpusFile(path: string): boolean {
  const lower = path.toLowerCase();
  return [...recordExtensions, ...textExtensions].some((extension) => lower.endsWith(extension));
}

/** A record of a JSONL file is a document, and so is any other file. Throws an Error on bad JSON. */
export function documentsOf(path: string, content: string): Document[] {
  if (!recordExtensions.some((extension) => path.toLowerCase().endsWith(extension))) {
    return content.trim() ? [{ name: path, text: content }] : [];
  }
  const documents: Document[] = [];
  for (const [index, line] of content.split("\n").entries()) {
    if (!line.trim()) continue;
    const name = `${path}:${index + 1}`;
    const text = recordText(name, line);
    if (text.trim()) documents.push({ name, text });
  }
  return documents;
}

/** The field `text`. Without `text`, all string fields, one per line. */
function recordText(name: string, line: string): string {
  let record: unknown;
  try {
    record = JSON.parse(line);
  } catch (error) {
    throw new Error(`${name}: not JSON`, { cause: error });
  }
  if (typeof record === "string") return record;
  if (typeof record !== "object" || record === null) throw new Error(`${name}: a record must be an object or a string`);
  if ("text" in record && typeof record.text === "string") return record.text;
  return Object.values(record)
    .filter((field) => typeof field === "string")
    .join("\n");
}

/** Cuts a small corpus, such as one book, into sections, which count as documents. */
export function withEnoughDocuments(documents: readonly Document[]): Document[] {
  if (documents.length >= minDocuments) return [...documents];
  return documents.flatMap(({ name, text }) =>
    sectionsOf(text, sectionCharacters).map((section, index) => ({ name: `${name}#${index + 1}`, text: section })),
  );
}

/** Cuts at blank lines. */
export function sectionsOf(text: string, characters: number): string[] {
  const sections: string[] = [];
  let start = 0;
  while (text.length - start > 1.5 * characters) {
    const blankLine = text.indexOf("\n\n", start + characters);
    if (blankLine < 0) break;
    sections.push(text.slice(start, blankLine + 2));
    start = blankLine + 2;
  }
  sections.push(text.slice(start));
  return sections.filter((section) => section.trim());
}

export const splits = ["train", "validation", "test"] as const;
export type Split = (typeof splits)[number];

const heldOutFraction = 0.1;

/** Splits by hash: a tenth (at least one) each for test and validation. Throws an Error below 3 documents. */
export function splitDocuments(corpusName: string, documents: readonly { text: string }[]): Split[] {
  if (documents.length < 3) {
    throw new Error(`corpus ${corpusName} has ${documents.length} document(s); training, validation and test need 3`);
  }
  const heldOut = Math.max(1, Math.round(documents.length * heldOutFraction));
  const hashes = documents.map(({ text }) => createHash("sha256").update(text).digest("hex"));
  const order = [...hashes.keys()].sort((i, j) => (hashes[i] < hashes[j] ? -1 : 1));
  const result = new Array<Split>(documents.length).fill("train");
  for (const document of order.slice(0, heldOut)) result[document] = "test";
  for (const document of order.slice(heldOut, 2 * heldOut)) result[document] = "validation";
  return result;
}
