import { fileURLToPath } from "node:url";
import vue from "@vitejs/plugin-vue";
import { defineConfig } from "vite";

// The same file that the server's own chat page uses: one place says when and how a socket comes back.
const shared = fileURLToPath(new URL("../../templates/static", import.meta.url));

export default defineConfig({
  base: "/vue/",
  plugins: [vue()],
  resolve: { alias: { "@oneport": shared } },
  server: {
    fs: { allow: [".", shared] },
    // `npm run dev` shows this page with hot reload; its sockets go on to Oneport.
    proxy: { "/ws": { target: "http://127.0.0.1:8000", ws: true, changeOrigin: true, rewriteWsOrigin: true } },
  },
});
