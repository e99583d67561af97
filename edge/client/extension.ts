/** The `chameleon` extension of requests and answers, as types. */
import type { ChameleonBlock } from "../../shared/contracts/responses.ts";

export type { ChameleonBlock };

/** An expert of a mixture. Either every expert has a weight or none has: then the prompt weighs them. */
export interface Expert {
  /** `base`, a centroid such as `c3`, or an adapter of your own. */
  id: string;
  weight?: number | null;
}

/** The object `chameleon` of a request. Even an empty one asks for the block `chameleon` of each choice. */
export interface ChameleonRequest {
  /** `auto` (the default), `nearest`, `off`, one adapter by its name, or a list of experts. */
  adapter?: "auto" | "nearest" | "off" | (string & {}) | Expert[] | null;
  /** Tell each token's logprob beside that of the base. */
  compare?: boolean | null;
  /** Only the first so many tokens of the prompt assign it and weigh its experts. */
  evidence_tokens?: number | null;
}

/** What a request may have besides OpenAI's fields. */
export interface ChameleonRequestFields {
  chameleon?: ChameleonRequest | null;
  /** Draw from so many likeliest tokens. */
  top_k?: number | null;
  /** Draw from tokens at least so likely, as a share of the likeliest. */
  min_p?: number | null;
  /** Neither the end of text nor a stop ends a choice before it has so many tokens. */
  min_tokens?: number | null;
  /** The end of text ends nothing. */
  ignore_eos?: boolean | null;
  /** Token ids that end a choice without being in it. */
  stop_token_ids?: number[] | null;
  /** Of tokens in the prompt or the text, a logit above 0 is divided by it, any other multiplied. */
  repetition_penalty?: number | null;
}

/** What a choice of an answer or chunk has besides OpenAI's fields, where the request has an object `chameleon`. */
export interface ChameleonChoiceFields {
  chameleon?: Partial<ChameleonBlock>;
}
