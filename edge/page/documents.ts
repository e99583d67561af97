/** Documents of the reader's own, before they are uploaded: named, and divided into what is uploaded and what is held back. Pure. */

export interface NamedText {
  name: string;
  text: string;
}

/** Gives documents of one name different names. */
export function withOwnNames(documents: readonly NamedText[]): NamedText[] {
  const names = new Set<string>();
  return documents.map(({ name, text }) => {
    const own = firstFree(
      name,
      (one) => names.has(one),
      (n) => ` (${n})`,
    );
    names.add(own);
    return { name: own, text };
  });
}

/** A name for an adapter of these documents: their folder's, the first file's, or their first words. */
export function nameFor(documents: readonly NamedText[], isTaken: (name: string) => boolean): string {
  const [first] = documents;
  if (!first) return "";
  const [folder, ...deeper] = first.name.split("/");
  const words = first.name === pastedName ? first.text.trim().split(/\s+/).slice(0, 3).join(" ") : folder;
  const stem = deeper.length > 0 || first.name === pastedName ? words : folder.replace(/\.[^.]*$/, "");
  return firstFree(slugOf(stem), isTaken, (n) => `-${n}`);
}

/** A name as the API takes it: "Poemas del Río" → "poemas-del-rio". */
export function slugOf(name: string): string {
  const plain = name.normalize("NFKD").toLowerCase().replace(/\p{M}/gu, "");
  const slug = plain.replace(/[^a-z0-9_]+/g, "-").replace(/^[-_]+/, "");
  return slug.slice(0, 40).replace(/-+$/, "") || "my-text";
}

/** The name of a text that was pasted. */
export const pastedName = "pasted text";

function firstFree(name: string, isTaken: (name: string) => boolean, ending: (n: number) => string): string {
  let own = name;
  for (let n = 2; isTaken(own); n++) own = name + ending(n);
  return own;
}

/** Shorter texts are too little to measure with. */
const minHeldCharacters = 600;

export interface Division {
  uploaded: NamedText[];
  /** null where there is too little to hold anything back. */
  held: NamedText | null;
}

/** Holds back the last document that is long enough, or the last tenth of a single one, as a document of its own. */
export function divide(documents: readonly NamedText[]): Division {
  if (documents.length > 1) {
    const at = documents.findLastIndex(({ text }) => text.length >= minHeldCharacters);
    return at < 0
      ? { uploaded: [...documents], held: null }
      : { uploaded: documents.toSpliced(at, 1), held: documents[at] };
  }
  const [single] = documents;
  if (!single || single.text.length < 3 * minHeldCharacters) return { uploaded: [...documents], held: null };
  const { name, text } = single;
  const at = cutAt(text, text.length - Math.max(minHeldCharacters, Math.round(text.length / 10)));
  return { uploaded: [{ name, text: text.slice(0, at) }], held: { name: `${name}, the end`, text: text.slice(at) } };
}

/** The last place near `index`, and not after it, at which a word of `text` ends; where there is none, between two characters. */
export function cutAt(text: string, index: number): number {
  if (index >= text.length) return text.length;
  for (let at = index; at > Math.max(index / 2, index - 200); at--) if (/\s/.test(text[at])) return at;
  return /[\uDC00-\uDFFF]/.test(text[index]) ? index - 1 : index;
}

/** Consecutive stretches of a text of at most so many characters, `most` of them at most. */
export function stretchesOf(text: string, characters: number, most: number): string[] {
  const stretches: string[] = [];
  for (let start = 0; start < text.length && stretches.length < most; ) {
    const end = start + cutAt(text.slice(start), characters);
    stretches.push(text.slice(start, end));
    start = end;
  }
  return stretches.filter((one) => one.trim() !== "");
}

/** Examples of a text: what stands between its empty lines. */
export function examplesIn(text: string): string[] {
  return text
    .split(/\n\s*\n/)
    .map((example) => example.trim())
    .filter(Boolean);
}
