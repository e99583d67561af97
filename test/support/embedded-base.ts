/** SmolLM2-135M, the base that users get, for the few tests that need it. */
import path from "node:path";

export const embeddedBase = path.join(import.meta.dirname, "../../gpu-backend/models/smollm2-135m");
