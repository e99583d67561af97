/** POST /v1/assign: where texts would go, and which centroids come next, without generating anything. */
import { assignRequestSchema } from "../../shared/contracts/openai.ts";
import type { AssignResponse } from "../../shared/contracts/responses.ts";
import { assign, rank, wishOf } from "../plan/assign.ts";
import { encodePrompts } from "../plan/encode.ts";
import { readBody } from "./body.ts";
import type { RouteHandler } from "./dependencies.ts";

export const assignTexts: RouteHandler = async (c, dependencies) => {
  const request = await readBody(c, dependencies, assignRequestSchema);
  await c.get("admission").end();
  const artifacts = await dependencies.artifacts();
  const { centroids } = artifacts.manifest;
  const own = await dependencies.adapters.named(c.get("access"), request.model, null, artifacts);
  const wish = wishOf(request.model, null, artifacts.manifest, own);
  const most = artifacts.manifest.embedding.prefixTokens;
  const inputs = encodePrompts(request.input, artifacts, { param: "input", single: "input", most, says: null });
  const data = inputs.map((ids, index) => {
    const { centroid, similarity, mode, experts } = assign(ids, wish, artifacts);
    const others = rank(ids, artifacts).filter((one) => centroids[one.index].id !== centroid.id);
    return {
      index,
      tokens: ids.length,
      centroid: centroid.id,
      similarity,
      mode,
      experts: mode === "evidence" ? ["base", ...experts, "pointer"] : experts.length > 0 ? experts : ["base"],
      runners_up: others
        .slice(0, request.top - 1)
        .map((one) => ({ centroid: centroids[one.index].id, similarity: one.similarity })),
    };
  });
  return c.json({ object: "list", data } satisfies AssignResponse);
};
