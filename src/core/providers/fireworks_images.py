"""Pictures by Fireworks, in three ways by model: at once, as a task that is asked after (Kontext), Stable Diffusion's.

https://docs.fireworks.ai/api-reference/generate-a-new-image-from-a-text-prompt
"""

from urllib.parse import quote

from ..drawing import Drawing
from ..errors import Refused, Transient, UpstreamError
from ..http_client.port import HttpRequest
from .dialect import Drawings, Endpoint, Later, Outgoing
from .drawn import drawings_in, drawings_of
from .exchange import read_json
from .images import FlatImages, post

POLL_S = 0.5


class FireworksImages:
    _flux = FlatImages(same=("aspect_ratio", "guidance_scale", "num_inference_steps", "seed"))
    _diffusion = FlatImages(same=("cfg_scale", "negative_prompt", "seed", "steps"), takes_sides=True)

    def path(self, upstream_model: str) -> str:
        model = quote(upstream_model, safe="/@:")
        if "flux" not in upstream_model:
            return f"/image_generation/{model}"
        return f"/workflows/{model}" + ("" if "kontext" in upstream_model else "/text_to_image")

    def drawing_request(self, endpoint: Endpoint, drawing: Drawing) -> Outgoing:
        way = self._flux if "flux" in endpoint.upstream_model else self._diffusion
        return way.drawing_request(endpoint, drawing)

    def drawings(self, raw: bytes, endpoint: Endpoint) -> Drawings | Later | UpstreamError:
        body = read_json(raw)
        if not isinstance(body, dict):
            return drawings_in(raw)
        if isinstance(task := body.get("request_id"), str):
            return self._ask_after(task, endpoint)
        status = body.get("status")
        if status == "Pending" and isinstance(task := body.get("id"), str):
            return self._ask_after(task, endpoint)
        if status in ("Request Moderated", "Content Moderated"):
            return Refused(f"The provider refused to draw this: {status}.")
        if status in ("Error", "Task not found"):
            return Transient(f"The provider did not finish the picture: {status}.")
        result = body.get("result")
        return drawings_of({"image": result.get("sample")}) if isinstance(result, dict) else drawings_in(raw)

    def _ask_after(self, task: str, endpoint: Endpoint) -> Later:
        address, mark, query = endpoint.url.partition("?")
        request = post(endpoint, {"id": task})
        return Later(HttpRequest(f"{address}/get_result{mark}{query}", request.headers, request.body), POLL_S)
