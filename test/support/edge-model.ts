/**
 * A tiny model's artifacts as the edge reads them. Tokens: 256 bytes, a few merges and three special tokens. The three centroids stand for
 * texts of a's, of b's and of z's. Centroid c2 is off: its scale is 0.
 */
import { edgeTableFile, hyperNetworkFile, type Manifest, tokenizerFile } from "../../shared/artifacts/manifest.ts";
import { type TensorFile, tensorFrom, writeTensorFile } from "../../shared/artifacts/tensor-file.ts";
import { sha256Hex } from "../../shared/bytes.ts";
import { byteAlphabet, packTokenizer } from "../../shared/tokenizer/pack.ts";
import type { SpecialRoles } from "../../shared/tokenizer/vocabulary.ts";

const someMerges = ["t h", "th e", "Ġ the", "Ã ©", "w o"];
const endOfTextId = 256 + someMerges.length;
const specialTexts = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const specials = specialTexts.map((text, i) => ({ id: endOfTextId + i, text, isShown: false }));
const [, turnStartId, turnEndId] = specials.map(({ id }) => id);
const vocabularySize = turnEndId + 1;
const dimensions = 4;
const subjects = ["a", "b", "z"];

export const edgeModel = {
  contextTokens: 48,
  prefixTokens: 8,
  endOfTextId,
  turnStartId,
  turnEndId,
  vocabularySize,
} as const;

/**
 * Returns files by name. `isOther` makes another set, with no common file. `model` changes the manifest's model, `roles` the tokenizer's
 * special tokens.
 */
export async function edgeModelFiles(
  isOther = false,
  model: Partial<Manifest["model"]> = {},
  roles: Partial<SpecialRoles> = {},
): Promise<Map<string, Uint8Array<ArrayBuffer>>> {
  const merges = isOther ? [...someMerges.slice(-1), ...someMerges.slice(0, -1)] : someMerges;
  const alphabet = byteAlphabet();
  const spellings = [...alphabet, ...merges.map((merge) => merge.replace(" ", ""))];
  const tokenizer = packTokenizer({
    ...{ preTokenizer: "gpt2", merges, specials, looksUpWhole: false },
    ids: new Map(spellings.map((spelling, id) => [spelling, id])),
    roles: { endOfTextId, eosId: endOfTextId, bosId: null, addsBos: false, ...roles },
  });
  const files = new Map([
    [tokenizerFile, tokenizer],
    [edgeTableFile, edgeTable(isOther ? 0.02 : 0.01)],
  ]);
  const bytes = new Map([...files].map(([name, tensors]) => [name, writeTensorFile(tensors)]));
  const record = async (name: string) => {
    const content = bytes.get(name)!;
    return { sha256: await sha256Hex(content), bytes: content.byteLength, tensors: {} };
  };
  const records: Manifest["files"] = {
    [edgeTableFile]: await record(edgeTableFile),
    [tokenizerFile]: await record(tokenizerFile),
    [hyperNetworkFile]: { sha256: "1".repeat(64), bytes: 0, tensors: {} },
  };
  bytes.set(
    "manifest.json",
    new TextEncoder().encode(JSON.stringify(manifestOf(records, model))) as Uint8Array<ArrayBuffer>,
  );
  return bytes;
}

/** The letter of each centroid (a, b, z) points along its own axis. Other tokens point weakly along the last axis. */
function edgeTable(scale: number): TensorFile {
  const rows = new Int8Array(vocabularySize * dimensions);
  for (let id = 0; id < vocabularySize; id++) {
    const subject = subjects.findIndex((letter) => letter.charCodeAt(0) === id);
    rows[id * dimensions + (subject < 0 ? dimensions - 1 : subject)] = subject < 0 ? 1 : 100;
  }
  const centroids = new Float32Array(subjects.length * dimensions);
  for (let k = 0; k < subjects.length; k++) centroids[k * dimensions + k] = 1;
  return new Map([
    ["table", tensorFrom(rows, [vocabularySize, dimensions])],
    ["table_scale", tensorFrom(new Float32Array(vocabularySize).fill(scale), [vocabularySize])],
    ["centroids", tensorFrom(centroids, [subjects.length, dimensions])],
  ]);
}

function manifestOf(files: Manifest["files"], model: Partial<Manifest["model"]>): Manifest {
  return {
    format: 1,
    model: {
      name: "tiny",
      servedAs: "gpt2",
      weights: "0".repeat(64),
      vocabularySize,
      hiddenSize: 8,
      contextTokens: edgeModel.contextTokens,
      stopIds: [endOfTextId, turnEndId],
      ...model,
    },
    embedding: { dimensions, prefixTokens: edgeModel.prefixTokens },
    hyperNetwork: { hash: "1".repeat(64), rank: 1, biases: 1, hidden: 2 },
    centroids: subjects.map((letter, k) => ({
      id: `c${k}`,
      hash: String(k).repeat(64),
      label: [letter],
      size: 10,
      position: [k, -k],
      scale: [1, 0.5, 0][k],
      gain: k === 2 ? null : { nats: 0.1 * (k + 1), ci95: [0.05, 0.3], tokens: 1000 },
    })),
    files,
    training: { seed: 1, steps: 1, corpora: [], basePerplexity: 10, adaptedPerplexity: 9 },
  };
}
