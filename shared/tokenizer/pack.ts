/**
 * Packs a vocabulary as Hugging Face ships it, vocab.json + merges.txt, into the tensors that Tokenizer reads:
 *   byte_ids        U16 [256]    token id of each byte
 *   merges          U16 [M, 2]   token ids of each pair, in order of rank
 *   merged_ids      U16 [M]      token id of each merge; left out where it is 256 + rank, as in GPT-2
 *   end_of_text_id  U16 [1]
 *   end_of_text     U8  [bytes]  its spelling
 * Run when artifacts are made; serving never imports it.
 */
import { type TensorFile, tensorFrom } from "../artifacts/tensor-file.ts";

/** Ids are packed in 16 bits. */
const maxVocabulary = 65536;

/**
 * The content of tokenizer.safetensors.
 * Throws an Error that names the entry which is missing, or which is neither a byte, a merge nor the end of text.
 */
export function packTokenizer(vocabJson: string, mergesTxt: string, endOfTextId: number): TensorFile {
  const vocabulary = new Map(Object.entries(JSON.parse(vocabJson) as Record<string, number>));
  if (vocabulary.size > maxVocabulary) {
    throw new Error(`vocab.json: ${vocabulary.size} entries, the packed form holds at most ${maxVocabulary}`);
  }
  const unexplained = new Map([...vocabulary].map(([spelling, id]) => [id, spelling]));
  for (let id = 0; id < vocabulary.size; id++) {
    if (!unexplained.has(id)) throw new Error(`vocab.json: ids must be 0 to ${vocabulary.size - 1}, ${id} is missing`);
  }
  const take = (spelling: string): number => {
    const id = vocabulary.get(spelling);
    if (id === undefined) throw new Error(`vocab.json: no entry for ${JSON.stringify(spelling)}`);
    unexplained.delete(id);
    return id;
  };

  const endOfText = unexplained.get(endOfTextId);
  if (endOfText === undefined) throw new Error(`vocab.json: no entry has the end-of-text id ${endOfTextId}`);
  unexplained.delete(endOfTextId);
  const byteIds = Uint16Array.from(byteAlphabet(), take);
  const pairs: number[] = [];
  const mergedIds: number[] = [];
  for (const line of mergesTxt.split(/\r?\n/)) {
    if (line === "" || line.startsWith("#version")) continue;
    const [left, right, ...rest] = line.split(" ");
    if (!left || !right || rest.length > 0) throw new Error(`merges.txt: ${JSON.stringify(line)} is not a pair`);
    pairs.push(take(left), take(right));
    mergedIds.push(take(left + right));
  }
  if (unexplained.size > 0) {
    const [[id, spelling]] = unexplained;
    throw new Error(
      `vocab.json: ${unexplained.size} entries are no byte, merge or end of text, among them ${JSON.stringify(spelling)} (${id})`,
    );
  }

  const file: TensorFile = new Map([
    ["byte_ids", tensorFrom(byteIds, [256])],
    ["merges", tensorFrom(Uint16Array.from(pairs), [mergedIds.length, 2])],
    ["end_of_text_id", tensorFrom(Uint16Array.of(endOfTextId), [1])],
  ]);
  if (mergedIds.some((id, rank) => id !== 256 + rank)) {
    file.set("merged_ids", tensorFrom(Uint16Array.from(mergedIds), [mergedIds.length]));
  }
  const spelled = new TextEncoder().encode(endOfText);
  return file.set("end_of_text", tensorFrom(spelled, [spelled.length]));
}

/**
 * The character that stands for each byte in vocab.json: printable Latin-1 stands for itself, the other 68 bytes,
 * in order, are U+0100 and up. (`bytes_to_unicode` of GPT-2's encoder.py.)
 */
export function byteAlphabet(): string[] {
  let nextStandIn = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(printable ? byte : nextStandIn++);
  });
}
