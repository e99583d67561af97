/** Reads the vocabularies of byte-level BPE tokenizers. */
import { z } from "zod";
import { parseJson, requireValid } from "../../shared/artifacts/checked-json.ts";
import { setLimits } from "../../shared/artifacts/limits.ts";
import type { VocabularySource } from "../../shared/tokenizer/pack.ts";
import type { PreTokenizerName } from "../../shared/tokenizer/pre-tokens.ts";
import type { SpecialToken } from "../../shared/tokenizer/vocabulary.ts";
import type { GgufHeader } from "./gguf/header.ts";

export interface TokenizerSource {
  vocabulary: VocabularySource;
  /** The first id is the chat template's `eos_token`. */
  stopIds: number[];
}

export type GgufMetadata = Pick<GgufHeader, "number" | "text" | "scalar" | "texts" | "numbers">;

const ggufPreTokenizers: Record<string, PreTokenizerName> = {
  ...{ "gpt-2": "gpt2", smollm: "smollm", "llama-bpe": "llama3", qwen2: "qwen2" },
};
const tokenTypes = { normal: 1, control: 3, userDefined: 4 };

const endTexts = new Set(["<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>"]);
const endOfTextTexts = ["<|endoftext|>", "<|end_of_text|>"];

export function tokenizerOfGguf(metadata: GgufMetadata): TokenizerSource {
  const key = (name: string) => `tokenizer.ggml.${name}`;
  const required = <T>(name: string, value: T | null): T => {
    if (value === null) throw new Error(`${key(name)} is missing`);
    return value;
  };
  const model = required("model", metadata.text(key("model")));
  if (model !== "gpt2")
    throw new Error(`${key("model")} is ${JSON.stringify(model)}; only byte-level BPE, "gpt2", is supported`);
  const pre = required("pre", metadata.text(key("pre")));
  if (!Object.hasOwn(ggufPreTokenizers, pre)) {
    const known = Object.keys(ggufPreTokenizers).join(", ");
    throw new Error(`${key("pre")} is ${JSON.stringify(pre.slice(0, 40))}; supported are ${known}`);
  }
  const tokens = required("tokens", metadata.texts(key("tokens"), setLimits.vocabulary));
  const types = required("token_type", metadata.numbers(key("token_type"), setLimits.vocabulary));
  const merges = required("merges", metadata.texts(key("merges"), setLimits.merges));
  if (types.length !== tokens.length)
    throw new Error(`${key("token_type")} has ${types.length} types for ${tokens.length} tokens`);
  const ids = new Map<string, number>();
  const specials: SpecialToken[] = [];
  for (const [id, text] of tokens.entries()) {
    if (types[id] === tokenTypes.normal) ids.set(text, id);
    else specials.push({ id, text, isShown: types[id] === tokenTypes.userDefined });
  }
  const idOf = (name: string) => metadata.number(key(`${name}_token_id`));
  const preTokenizer = ggufPreTokenizers[pre];
  return sourceOf(
    { preTokenizer, ids, merges, specials, looksUpWhole: preTokenizer === "llama3" },
    {
      eosIds: [required("eos_token_id", idOf("eos")), idOf("eot"), idOf("eom")].filter((id) => id !== null),
      bosId: idOf("bos"),
      // Without `add_bos_token`, llama.cpp decides by the pre-tokeniser.
      addsBos: (metadata.scalar(key("add_bos_token")) ?? preTokenizer === "llama3") === true,
    },
  );
}

const regexSplit = z.object({
  type: z.literal("Split"),
  pattern: z.object({ Regex: z.string() }),
  behavior: z.string(),
});
const byteLevel = z.object({
  type: z.literal("ByteLevel"),
  add_prefix_space: z.literal(false),
  use_regex: z.boolean().default(true),
});
const digits = z.object({ type: z.literal("Digits"), individual_digits: z.literal(true) });
const part = z.discriminatedUnion("type", [regexSplit, byteLevel, digits]);
const processorPart = z.object({ type: z.string() }).loose();

const tokenizerJson = z.object({
  normalizer: z
    .object({ type: z.literal("NFC") })
    .nullable()
    .default(null),
  pre_tokenizer: z.union([part, z.object({ type: z.literal("Sequence"), pretokenizers: z.array(part) })]),
  post_processor: z
    .union([z.object({ type: z.literal("Sequence"), processors: z.array(processorPart) }), processorPart])
    .nullable()
    .default(null),
  added_tokens: z.array(z.object({ id: z.int().min(0), content: z.string().min(1), special: z.boolean() })),
  model: z.object({
    /** Missing in old files, such as GPT-2's. */
    type: z.literal("BPE").default("BPE"),
    continuing_subword_prefix: z.literal("").nullish(),
    end_of_word_suffix: z.literal("").nullish(),
    byte_fallback: z.literal(false).default(false),
    ignore_merges: z.boolean().default(false),
    vocab: z.record(z.string(), z.int().min(0)),
    merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])),
  }),
});

const llama3Pattern = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
/** Each key lists the parts of `normalizer` and `pre_tokenizer`, as `describePart` spells them. */
const jsonPreTokenizers: Record<string, PreTokenizerName> = {
  "ByteLevel(true)": "gpt2",
  "Digits ByteLevel(true)": "smollm",
  [`Split(${llama3Pattern}) ByteLevel(false)`]: "llama3",
  [`NFC Split(${llama3Pattern.replace("{1,3}", "")}) ByteLevel(false)`]: "qwen2",
};

/** `text` is tokenizer.json. `eosIds` and `bosId` are from other files. */
export function tokenizerOfJson(
  text: string,
  { vocabularySize, eosIds, bosId }: { vocabularySize: number; eosIds: readonly number[]; bosId: number | null },
): TokenizerSource {
  const file = "tokenizer.json";
  const json = requireValid(tokenizerJson, parseJson(text, file), file);
  const { normalizer, pre_tokenizer, post_processor, added_tokens, model } = json;
  const parts = pre_tokenizer.type === "Sequence" ? pre_tokenizer.pretokenizers : [pre_tokenizer];
  const described = [...(normalizer ? ["NFC"] : []), ...parts.map(describePart)].join(" ");
  if (!Object.hasOwn(jsonPreTokenizers, described)) {
    throw new Error(`tokenizer.json: its pre_tokenizer is not supported: ${described.slice(0, 200)}`);
  }
  const specials = added_tokens.map(({ id, content, special }) => ({ id, text: content, isShown: !special }));
  const ids = new Map(Object.entries(model.vocab));
  for (const { text } of specials) ids.delete(text);
  const known = new Set([...ids.values(), ...specials.map(({ id }) => id)]);
  for (let id = 0; id < vocabularySize; id++) {
    if (!known.has(id)) specials.push({ id, text: `[UNUSED${id}]`, isShown: false });
  }
  const merges = model.merges.map((merge) => (typeof merge === "string" ? merge : merge.join(" ")));
  const vocabulary = {
    preTokenizer: jsonPreTokenizers[described],
    ids,
    merges,
    specials,
    looksUpWhole: model.ignore_merges,
  };
  const addsBos = bosId !== null && beginsWith(post_processor, specials.find(({ id }) => id === bosId)?.text);
  return sourceOf(vocabulary, { eosIds, bosId, addsBos });
}

function describePart(one: z.infer<typeof part>): string {
  if (one.type === "Split")
    return one.behavior === "Isolated" ? `Split(${one.pattern.Regex})` : `Split of ${one.behavior}`;
  return one.type === "ByteLevel" ? `ByteLevel(${one.use_regex})` : one.type;
}

function beginsWith(processor: z.infer<typeof tokenizerJson>["post_processor"], text: string | undefined): boolean {
  const steps = (processor?.type === "Sequence" ? processor.processors : [processor]) as Record<string, unknown>[];
  return steps.some((step) => {
    const [first] = (step?.single ?? []) as { SpecialToken?: { id: string } }[];
    return first?.SpecialToken !== undefined && first.SpecialToken.id === text;
  });
}

function sourceOf(
  vocabulary: Omit<VocabularySource, "roles">,
  { eosIds, bosId, addsBos }: { eosIds: readonly number[]; bosId: number | null; addsBos: boolean },
): TokenizerSource {
  const { specials } = vocabulary;
  const [eosId] = eosIds;
  if (eosId === undefined) throw new Error("no eos_token_id says where a text ends");
  const ends = specials.filter(({ text }) => endTexts.has(text)).map(({ id }) => id);
  const endOfText = specials.find(({ text }) => endOfTextTexts.includes(text));
  return {
    vocabulary: { ...vocabulary, roles: { endOfTextId: endOfText?.id ?? eosId, eosId, bosId, addsBos } },
    stopIds: [...new Set([...eosIds, ...ends])],
  };
}
