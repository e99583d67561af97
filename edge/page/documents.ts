/** The user's documents before their upload: a name for the adapter, and a held-back part that measures the gain. Pure. */

export interface NamedText {
  name: string;
  text: string;
}

/** Adds documents. A name that another text has gets a number, because the API refuses two documents of one name: `notes (2).md`. */
export function withAdded(documents: readonly NamedText[], added: readonly NamedText[]): NamedText[] {
  const texts = new Map(documents.map(({ name, text }) => [name, text]));
  for (const { name, text } of added) {
    let free = name;
    for (let n = 2; texts.has(free) && texts.get(free) !== text; n++) {
      free = name.replace(/(\.[^.]*)?$/, (ending) => ` (${n})${ending}`);
    }
    texts.set(free, text);
  }
  return Array.from(texts, ([name, text]) => ({ name, text }));
}

/** A free name, made from the documents' folder, the first file's name, or the first words of a pasted text. */
export function nameFor(documents: readonly NamedText[], isTaken: (name: string) => boolean): string {
  const [first] = documents;
  if (!first) return "";
  const [folder, ...deeper] = first.name.split("/");
  const words = first.name === pastedName ? first.text.trim().split(/\s+/).slice(0, 3).join(" ") : folder;
  const stem = deeper.length > 0 || first.name === pastedName ? words : folder.replace(/\.[^.]*$/, "");
  const slug = slugOf(stem);
  let name = slug;
  for (let n = 2; isTaken(name); n++) name = `${slug}-${n}`;
  return name;
}

/** "Poemas del Río" → "poemas-del-rio", a name that the API accepts. */
export function slugOf(name: string): string {
  const plain = name.normalize("NFKD").toLowerCase().replace(/\p{M}/gu, "");
  const slug = plain.replace(/[^a-z0-9_]+/g, "-").replace(/^[-_]+/, "");
  return slug.slice(0, 40).replace(/-+$/, "") || "my-text";
}

export const pastedName = "pasted text";

const minHeldCharacters = 600;

/** Holds back the last document that is long enough or, of a single long document, the last tenth. `held`: null if no document is long. */
export function divide(documents: readonly NamedText[]): { uploaded: NamedText[]; held: NamedText | null } {
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

/** The last end of a word at or shortly before `index`; else a nearby index that does not cut a character. */
function cutAt(text: string, index: number): number {
  if (index >= text.length) return text.length;
  for (let at = index; at > Math.max(index / 2, index - 200); at--) if (/\s/.test(text[at])) return at;
  return /[\uDC00-\uDFFF]/.test(text[index]) ? index - 1 : index;
}

export function stretchesOf(text: string, characters: number, most: number): string[] {
  const stretches: string[] = [];
  for (let start = 0; start < text.length && stretches.length < most; ) {
    const end = start + cutAt(text.slice(start), characters);
    stretches.push(text.slice(start, end));
    start = end;
  }
  return stretches.filter((one) => one.trim() !== "");
}

export function examplesIn(text: string): string[] {
  return text
    .split(/\n\s*\n/)
    .map((example) => example.trim())
    .filter(Boolean);
}
