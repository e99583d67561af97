/** Types of the `chameleon` extension, without dependencies. A test compares them with the API's schemas. */

/** How one choice was made. A stream has it in the choice's last chunk; `sources` and `compare` come in each chunk, for its own tokens. */
export interface ChameleonBlock {
  /** The nearest centroid, or the first adapter that the request names and that serves. */
  centroid: string;
  /** Cosine of prompt embedding and centroid. */
  similarity: number;
  mode: "evidence" | "fixed" | "adapted" | "off" | "auto-off";
  /** The request's seed, or a random one. The same request with this seed has the same answer. */
  seed: number;
  /** The answer's logits are the weighted mean of these experts' logits. `hash` identifies an adapter. */
  experts: { id: string; weight: number; hash?: string | undefined }[];
  /** Mean gain over the base in nats a token, on `tokens` of the prompt's tokens; null if the prompt did not weigh the experts. */
  evidence: { nats: number; tokens: number } | null;
  /** The adapter that serves; null for the base alone. */
  adapter: { hash: string; cache: "hit" | "generated"; scale: number } | null;
  /** Gain of the centroid's adapter over the base on held-out text, in nats a token; null if it was not measured. */
  held_out_gain: { nats: number; ci95: [number, number]; tokens: number } | null;
  /** The memories that the answer read. `brake` is the weight of a memory, 0 for one that was not used. */
  memories?: { id: string; brake: number }[] | undefined;
  /** With `retrieve`: the passages that were put into the prompt, nearest first. Each is bytes [start, end) of its document. */
  retrieved?:
    | { adapter: string; document: string; start: number; end: number; tokens: number; similarity: number }[]
    | undefined;
  /** With `sources`: for each token, the share of its probability that came from documents, and the passages that gave it. */
  sources?:
    | {
        token: string;
        share: number;
        passages: { adapter: string; document: string; start: number; end: number; share: number }[];
      }[]
    | undefined;
  /** Milliseconds of each phase. */
  timings: { tokenize: number; assign: number; queue: number; adapter: number; prefill: number; decode: number };
  /** With `compare`: each token's log-probability, and its log-probability under the base. */
  compare?:
    | {
        tokens: { token: string; logprob: number; base_logprob: number }[];
        mean_difference?: number | null | undefined;
      }
    | undefined;
}

/** An expert of a mixture. Either all experts have a weight, or none has and the prompt weighs them. */
export interface Expert {
  /** `base`, `static`, a centroid such as `c3`, or an adapter of your own. */
  id: string;
  weight?: number | null;
}

/** The object `chameleon` of a request. With one, even an empty one, each choice has an object `chameleon`, too. */
export interface ChameleonRequest {
  /** `auto` (the default), `nearest`, `static`, `off`, one adapter by its name, or a list of experts. */
  adapter?: "auto" | "nearest" | "static" | "off" | (string & {}) | Expert[] | null;
  /** Return each token's log-probability, and its log-probability under the base. */
  compare?: boolean | null;
  /** Return the passages of your own documents behind each token. */
  sources?: boolean | null;
  /** Put this number of passages of your own documents into the prompt, those nearest to it: 1 to 4. */
  retrieve?: number | null;
  /** Number of the prompt's first tokens that assign it and weigh its experts. */
  evidence_tokens?: number | null;
}

/** The fields that a request may have in addition to OpenAI's. */
export interface ChameleonRequestFields {
  chameleon?: ChameleonRequest | null;
  /** Sample from this many likeliest tokens. */
  top_k?: number | null;
  /** Sample from tokens with at least this share of the likeliest token's probability. */
  min_p?: number | null;
  /** Until a choice has this many tokens, neither the end of text nor a stop ends it. */
  min_tokens?: number | null;
  /** The end of text does not end a choice. */
  ignore_eos?: boolean | null;
  /** Token ids that end a choice and are not part of it. */
  stop_token_ids?: number[] | null;
  /** Divides the positive logits of tokens that are in the prompt or the text, and multiplies the negative ones. */
  repetition_penalty?: number | null;
}

/** The fields that a choice, or a response, has in addition to OpenAI's if the request has an object `chameleon`. */
export interface ChameleonChoiceFields {
  chameleon?: Partial<ChameleonBlock>;
}
