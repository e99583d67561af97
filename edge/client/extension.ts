/** Types of the `chameleon` extension, without dependencies. A test compares them with the API's schemas. */

/** How one choice was made. A stream has it in the choice's last chunk, but `sources` and `compare` in each chunk. */
export interface ChameleonBlock {
  /** The nearest centroid, or the first of the requested adapters that may answer. */
  centroid: string;
  /** Cosine similarity of the prompt's embedding and the centroid. */
  similarity: number;
  mode: "evidence" | "fixed" | "adapted" | "off" | "auto-off";
  /** The request's seed, or a random seed. A request that repeats this seed gets the same answer. */
  seed: number;
  /** The answer's logits are the weighted mean of these experts' logits. `hash` identifies an adapter. */
  experts: { id: string; weight: number; hash?: string | undefined }[];
  /** Mean gain over the base model in nats per token, on `tokens` tokens of the prompt. null if the prompt did not weigh the experts. */
  evidence: { nats: number; tokens: number } | null;
  /** The adapter that answered; null for the base model alone. */
  adapter: { hash: string; cache: "hit" | "generated"; scale: number } | null;
  /** Gain of the centroid's adapter over the base model on held-out text, in nats per token. null if not measured. */
  held_out_gain: { nats: number; ci95: [number, number]; tokens: number } | null;
  /** The memories that were searched. `brake`: weight of the memory; 0 if the memory was not used. */
  memories?: { id: string; brake: number }[] | undefined;
  /** With `retrieve`: the passages put into the prompt, nearest first. A passage is bytes [start, end) of its document. */
  retrieved?:
    | { adapter: string; document: string; start: number; end: number; tokens: number; similarity: number }[]
    | undefined;
  /** With `sources`: for each token, the share of its probability that came from documents, and these documents' passages. */
  sources?:
    | {
        token: string;
        share: number;
        passages: { adapter: string; document: string; start: number; end: number; share: number }[];
      }[]
    | undefined;
  /** Milliseconds of each phase. */
  timings: { tokenize: number; assign: number; queue: number; adapter: number; prefill: number; decode: number };
  /** With `compare`: each token's log-probability, and its log-probability under the base model. */
  compare?:
    | {
        tokens: { token: string; logprob: number; base_logprob: number }[];
        mean_difference?: number | null | undefined;
      }
    | undefined;
}

/** An expert of a mixture. Give all experts a weight, or none; without weights, the prompt weighs them. */
export interface Expert {
  /** `base`, `static`, a centroid such as `c3`, or an adapter of your own. */
  id: string;
  weight?: number | null;
}

/** The `chameleon` object of a request. If a request has the object, even an empty one, each choice has a `chameleon` object, too. */
export interface ChameleonRequest {
  /** `auto` (the default), `nearest`, `static`, `off`, an adapter's name, or a list of experts. */
  adapter?: "auto" | "nearest" | "static" | "off" | (string & {}) | Expert[] | null;
  /** Return each token's log-probability under the answering model and under the base model. */
  compare?: boolean | null;
  /** Return the passages of your own documents behind each token. */
  sources?: boolean | null;
  /** Put this many passages of your own documents into the prompt, nearest first: 1 to 4. */
  retrieve?: number | null;
  /** Use only this many first tokens of the prompt to assign the prompt and to weigh its experts. */
  evidence_tokens?: number | null;
}

/** Request fields in addition to OpenAI's. */
export interface ChameleonRequestFields {
  chameleon?: ChameleonRequest | null;
  /** Sample from this many of the likeliest tokens. */
  top_k?: number | null;
  /** Sample from tokens with at least this share of the likeliest token's probability. */
  min_p?: number | null;
  /** Neither the end of text nor a stop ends a choice before it has this many tokens. */
  min_tokens?: number | null;
  /** The end of text does not end a choice. */
  ignore_eos?: boolean | null;
  /** Token ids that end a choice and are not part of it. */
  stop_token_ids?: number[] | null;
  /** Divides the positive logits of tokens in the prompt or the text, and multiplies their negative logits. */
  repetition_penalty?: number | null;
}

/** Fields of a choice, or of a response, in addition to OpenAI's, if the request has a `chameleon` object. */
export interface ChameleonChoiceFields {
  chameleon?: Partial<ChameleonBlock>;
}
