/** Stands in for the fitter's process, and does what `then` says. */
const { then } = JSON.parse(process.argv[2]) as { then: "answer" | "environment" | "wait" | "throw" };
process.once("disconnect", () => process.exit());
process.on("message", ({ id, request }: { id: number; request: object | null }) => {
  if (!request) return;
  if (then === "answer") process.send!({ id, ok: true, result: process.pid });
  else if (then === "environment") process.send!({ id, ok: true, result: process.env });
  else if (then === "throw") process.exit(1);
  else Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
});
