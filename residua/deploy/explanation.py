"""Makes the parts of a service's answer that explain it."""

from torch import Tensor

from residua.config.serialize import Json
from residua.data.thumbnails import encode_data_uri, pixels_to_image
from residua.deploy.decoding import DecodedUpload
from residua.deploy.explain import GradCamExplainer, draw_heat_layer
from residua.deploy.query import PredictionQuery
from residua.deploy.similar import SimilarImageIndex


def explain_answer(
    query: PredictionQuery,
    upload: DecodedUpload,
    class_index: int,
    explainer: GradCamExplainer | None,
    similar_images: SimilarImageIndex | None,
) -> dict[str, Json]:
    """Explain the answer `class_index` as the query asks: by a heat map and by similar images.

    The heat map is that of the class that the query names, if any.
    The page lays the heat map over the photograph, or over the network's input (`view`) if the
    browser cannot show the photograph.
    """
    explanation: dict[str, Json] = {}
    if query.wants_heatmap:
        explanation["photo"] = upload.describe_crop()
        explanation["view"] = encode_data_uri(pixels_to_image(upload.pixels))
        if query.explained_class is not None:
            class_index = query.explained_class
        explanation["heat"] = make_heatmap_uri(explainer, upload.pixels, class_index)
        if explainer is not None:
            explanation["explained"] = explainer.config.classes[class_index]
    if query.similar_count:
        explanation["similar"] = list_similar_images(
            similar_images, upload.pixels, query.similar_count
        )
    return explanation


def make_heatmap_uri(
    explainer: GradCamExplainer | None, pixels: Tensor, class_index: int
) -> str | None:
    """Make the heat map of a class as a data URI.  Returns None if there is no explainer."""
    if explainer is None:
        return None
    return encode_data_uri(draw_heat_layer(explainer.compute_heatmap(pixels, class_index)))


def list_similar_images(index: SimilarImageIndex | None, pixels: Tensor, count: int) -> list[Json]:
    """List the most similar training images as JSON; empty if there is no index."""
    if index is None:
        return []
    return [
        {
            "class": similar.class_name,
            "cosine": similar.cosine,
            "image": encode_data_uri(pixels_to_image(similar.pixels)),
        }
        for similar in index.find_nearest(pixels, count)
    ]
