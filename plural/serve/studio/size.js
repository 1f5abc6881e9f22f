// How large an element is, as long as it is shown: drawings are laid out for it.

import { useEffect, useRef, useState } from "./vendor/preact.js";

/** [ref, {width, height}] */
export function useSize(first) {
  const ref = useRef(null);
  const [size, setSize] = useState(first);
  useEffect(() => {
    const seen = new ResizeObserver(([{ contentRect: { width, height } }]) => {
      if (width && height) setSize((old) => (old.width === width && old.height === height ? old : { width, height }));
    });
    seen.observe(ref.current);
    return () => seen.disconnect();
  }, []);
  return [ref, size];
}
