/** GET /v1/models and /v1/models/{id}: the base, its automatic adapter, and one model per centroid. */
import type { Handler } from "hono";
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import { wishOf } from "../assign/assign.ts";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";

export function listModels(dependencies: Dependencies): Handler<AppEnvironment> {
  return async (c) => {
    const { manifest } = await dependencies.artifacts();
    return c.json({ object: "list", data: modelNames(manifest).map(modelObject) });
  };
}

export function getModel(dependencies: Dependencies): Handler<AppEnvironment> {
  return async (c) => {
    const { manifest } = await dependencies.artifacts();
    const id = c.req.param("id") ?? "";
    wishOf(id, undefined, manifest); // throws model_not_found
    return c.json(modelObject(id));
  };
}

function modelNames({ model, centroids }: Manifest): string[] {
  return [model.servedAs, `${model.servedAs}:auto`, ...centroids.map(({ id }) => `${model.servedAs}:${id}`)];
}

/** `created` is required by OpenAI's schema; artifacts carry no date, as equal content must have equal bytes. */
function modelObject(id: string) {
  return { id, object: "model", created: 0, owned_by: "chameleon-edge" };
}
