/**
 * Runs inside workerd, and does the edge's work on texts many times. The caller measures the time, because the runtime's clock stands still
 * while code computes.
 */
import { type Artifacts, loadArtifacts } from "../../../edge/artifacts/artifacts.ts";
import { assign } from "../../../edge/plan/assign.ts";
import { encodePrompts } from "../../../edge/plan/encode.ts";
import { loadOnce } from "../../support/load-once.ts";

/** The work is done `repeats` times; 0 measures only the round trip to the Worker. */
export interface CpuTask {
  texts: string[];
  repeats: number;
  work: "tokenize" | "assign" | "both";
}

interface Env {
  ASSETS: { fetch(url: string): Promise<Response> };
}

let load: (() => Promise<Artifacts>) | null = null;

const bound = {
  param: "prompt",
  single: "The prompt",
  maxTokens: Number.POSITIVE_INFINITY,
  begin: [],
  limitText: null,
};

export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    load ??= loadOnce(() =>
      loadArtifacts(async (name) => {
        const response = await env.ASSETS.fetch(`https://assets/artifacts/${name}`);
        return new Uint8Array(await response.arrayBuffer());
      }),
    );
    const artifacts = await load();
    const { texts, repeats, work } = (await request.json()) as CpuTask;
    const encoded = encodePrompts(texts, artifacts, bound);
    let centroids = 0;
    for (let i = 0; i < repeats; i++) {
      const ids = work === "assign" ? encoded : encodePrompts(texts, artifacts, bound);
      if (work !== "tokenize") for (const one of ids) centroids += assign(one, "auto", artifacts).centroid.id.length;
    }
    return Response.json({ centroids, tokens: encoded.map((ids) => ids.length) });
  },
};
