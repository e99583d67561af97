/** The `chameleon` extension of requests and answers, as types that need no other package. A test holds them to the API's schemas. */

/** What answered one choice. In a stream it comes with the choice's last chunk; each chunk has its own tokens of `sources` and `compare`. */
export interface ChameleonBlock {
  /** The nearest centroid, or the first of the adapters that the request names and that serve. */
  centroid: string;
  /** Cosine of prompt embedding and centroid. */
  similarity: number;
  mode: "evidence" | "fixed" | "adapted" | "off" | "auto-off";
  /** Of the request, or drawn for it: with it, the same request has the same answer. */
  seed: number;
  /** What the answer's logits are a weighted mean of; `hash` is an adapter's. */
  experts: { id: string; weight: number; hash?: string | undefined }[];
  /** Mean gain over the base in nats a token, on so many of the prompt's own tokens; null where the prompt did not decide. */
  evidence: { nats: number; tokens: number } | null;
  /** The adapter that serves; null for the base alone. */
  adapter: { hash: string; cache: "hit" | "generated"; scale: number } | null;
  /** What the centroid's adapter gained on held-out text, in nats a token; null where none was measured. */
  held_out_gain: { nats: number; ci95: [number, number]; tokens: number } | null;
  /** The memories that the answer read; a `brake` of 0 does not count. */
  memories?: { id: string; brake: number }[] | undefined;
  /** With `retrieve`: the passages in the prompt, nearest first; bytes [start, end) of the document. */
  retrieved?:
    | { adapter: string; document: string; start: number; end: number; tokens: number; similarity: number }[]
    | undefined;
  /** With `sources`: the passages that spoke for each token, and their parts of its probability. */
  sources?:
    | {
        token: string;
        share: number;
        passages: { adapter: string; document: string; start: number; end: number; share: number }[];
      }[]
    | undefined;
  /** Milliseconds of each phase. */
  timings: { tokenize: number; assign: number; queue: number; adapter: number; prefill: number; decode: number };
  /** With `compare`: each token's log-probability, and the base's. */
  compare?:
    | {
        tokens: { token: string; logprob: number; base_logprob: number }[];
        mean_difference?: number | null | undefined;
      }
    | undefined;
}

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

/** What a choice, or a response, has besides OpenAI's fields, if the request has an object `chameleon`. */
export interface ChameleonChoiceFields {
  chameleon?: Partial<ChameleonBlock>;
}
