/** The `chameleon` extension of requests and answers, as types. */
import type { ChameleonBlock } from "../../shared/contracts/responses.ts";

export type { ChameleonBlock };

/** An expert of a mixture. Either every expert has a weight or none has: then the prompt weighs them. */
export interface Expert {
  /** `base`, `static`, a centroid such as `c3`, or an adapter of your own. */
  id: string;
  weight?: number | null;
}

/** The object `chameleon` of a request. Even an empty one asks for the block `chameleon` of each choice. */
export interface ChameleonRequest {
  /** `auto` (the default), `nearest`, `static`, `off`, one adapter by its name, or a list of experts. */
  adapter?: "auto" | "nearest" | "static" | "off" | (string & {}) | Expert[] | null;
  /** Return each token's logprob and the base's. */
  compare?: boolean | null;
  /** Return the passages of your own documents behind each token. */
  sources?: boolean | null;
  /** Put so many passages of your own documents into the prompt, those nearest to it: 1 to 4. */
  retrieve?: number | null;
  /** Number of the prompt's first tokens that assign it and weigh its experts. */
  evidence_tokens?: number | null;
}

/** What a request may have besides OpenAI's fields. */
export interface ChameleonRequestFields {
  chameleon?: ChameleonRequest | null;
  /** Sample from this many likeliest tokens. */
  top_k?: number | null;
  /** Sample from tokens with at least this share of the likeliest token's probability. */
  min_p?: number | null;
  /** Number of tokens before which neither the end of text nor a stop ends a choice. */
  min_tokens?: number | null;
  /** The end of text does not end a choice. */
  ignore_eos?: boolean | null;
  /** Token ids that end a choice and are not part of it. */
  stop_token_ids?: number[] | null;
  /** Divides positive logits of tokens in the prompt or the text, and multiplies negative ones. */
  repetition_penalty?: number | null;
}

/** What a choice has besides OpenAI's fields, if the request has an object `chameleon`. */
export interface ChameleonChoiceFields {
  chameleon?: Partial<ChameleonBlock>;
}
