"""AlexNet."""

from torch import nn

from poster_genres.network import Architecture, Head, Network


def alexnet(genres: int, height: int, width: int) -> Network:
    """AlexNet, in the form of one column (Krizhevsky 2014, arXiv:1404.5997): five convolutions and three dense layers.

    The last maps are averaged to 6 x 6 whatever the posters' size, so that the dense layers are always those of 224 x 224. 57
    million parameters.
    """
    if height < 63 or width < 63:
        raise ValueError("it needs at least 63 x 63 pixels")
    layers = [nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(inplace=True)]
    layers += [nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)]
    dense = [nn.Dropout(0.5), nn.Linear(256 * 36, 4096), nn.ReLU(inplace=True)]
    dense += [nn.Dropout(0.5), nn.Linear(4096, 4096), nn.ReLU(inplace=True), Head(4096, genres)]
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(6), nn.Flatten())
    return Network(nn.Sequential(*layers), pool, nn.Sequential(*dense))


ARCHITECTURE = Architecture(alexnet)
