/** One load for all of a test file's requests, whose promises may wait for each other. */

/** Runs `load` once and keeps its promise; after a failure the next caller tries again. */
export function loadOnce<T>(load: () => Promise<T>): () => Promise<T> {
  let loading: Promise<T> | null = null;
  return () => {
    loading ??= load().catch((error) => {
      loading = null;
      throw error;
    });
    return loading;
  };
}
